"""Reads the header of an encoded image without decoding it: about 4 us for a JPEG.

Supports JPEG, PNG and WebP, the formats that decoders get unchanged. Pillow takes ten times as long to read a header,
too long for thousands of samples per second on the feeder's one thread. It also does not report what we need: whether
the end marker is there, the number of components, arithmetic coding.

Anything unusual (alpha, 16 bits, CMYK, no end marker, another format) is `plain=False`: Pillow must check the image.
"""

from __future__ import annotations

import struct
from struct import Struct as Layout

from msgspec import Struct

from datago_gpu.imaging.chunks import may_change_orientation, png_chunks
from datago_gpu.imaging.exif import exif_segment, orientation, plain_orientation, xmp_orientation
from datago_gpu.imaging.scans import MOST_SCANS, count_scans

__all__ = ["Header", "read_header"]

_SEGMENT = Layout(">BBH")
_FRAME = Layout(">BHHB")
_IHDR = Layout(">IIBB")

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _SCAN = 0xE1, 0xDA
_LEFT_TO_PILLOW = frozenset((0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF))
"""Markers without a length, fill bytes, and the extensions that Pillow does not skip by their length."""

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"

_MOST_SEGMENTS = 1000
"""A large colour profile takes 255 segments. A payload of nothing but segments would block the feeder for seconds."""

_LARGEST = 2**31 - 1
"""Maximum height and width of a PNG, by its specification. DALI reads larger values as negative numbers."""

_Span = tuple[int, int]


class Header(Struct, frozen=True):
    """The content of a header. Sizes are in pixels as stored, before `orientation` is applied."""

    height: int
    width: int
    orientation: int = 1
    """EXIF orientation, 1 to 8; 1 is upright."""
    plain: bool = True
    """True if decoders accept the payload after `tidy`. Otherwise Pillow must check the image."""
    odd_exif: tuple[_Span, ...] = ()
    """(begin, end) of JPEG segments from which DALI might read another orientation. `tidy` removes them."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as displayed."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)

    def tidy(self, payload: bytes) -> bytes:
        """Returns the payload, or a copy with one plain EXIF segment in place of the odd ones."""
        if not self.odd_exif:
            return payload
        source, at = memoryview(payload), self.odd_exif[0][0]
        pieces = [source[:at], memoryview(exif_segment(self.orientation))]
        for begin, end in self.odd_exif:
            pieces.append(source[at:begin])
            at = end
        return b"".join((*pieces, source[at:]))


_UNKNOWN = Header(0, 0, plain=False)


def read_header(payload: bytes) -> Header:
    """Reads the header of an encoded image. For an unknown format or a broken header, the sizes are 0."""
    try:
        if payload.startswith(b"\xff\xd8"):
            return _jpeg(payload)
        if payload.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(payload)
        if payload.startswith(b"RIFF") and payload[8:12] == b"WEBP":
            return _webp(payload)
    except (struct.error, IndexError):
        pass
    return _UNKNOWN


def _jpeg(payload: bytes) -> Header:
    """Reads the segments up to the first scan: ITU-T T.81, annex B."""
    at, kind, height, width, common = 2, 0, 0, 0, False
    exifs: list[_Span] = []
    xmps: list[_Span] = []
    for _ in range(_MOST_SEGMENTS):
        prefix, marker, length = _SEGMENT.unpack_from(payload, at)
        if prefix != 0xFF or marker in _LEFT_TO_PILLOW:
            return Header(height, width, plain=False)
        if marker == _SCAN:
            break
        end = at + 2 + length
        if marker in _FRAMES:
            if kind:
                return _UNKNOWN  # one decoder may take the first frame, another the second
            kind = marker
            precision, height, width, components = _FRAME.unpack_from(payload, at + 4)
            common = kind in (_BASELINE, _EXTENDED, _PROGRESSIVE) and precision == 8 and components in (1, 3)
        elif marker == _APP1 and payload.startswith(_EXIF, at + 4):
            exifs.append((at, end))
        elif marker == _APP1 and payload.startswith(_XMP, at + 4):
            xmps.append((at, end))
        at = end
    else:
        return Header(height, width, plain=False)  # DALI may crash on a JPEG without a scan
    ended = payload.endswith(b"\xff\xd9") or payload.rfind(b"\xff\xd9", at) > 0
    common = common and ended and (kind != _PROGRESSIVE or count_scans(payload) <= MOST_SCANS)
    turned, odd = _jpeg_orientation(payload, exifs, xmps)
    return Header(height, width, turned, plain=common and height > 0 and width > 0, odd_exif=odd)


def _jpeg_orientation(payload: bytes, exifs: list[_Span], xmps: list[_Span]) -> tuple[int, tuple[_Span, ...]]:
    """Returns the orientation and `Header.odd_exif`."""
    if not exifs and not xmps:
        return 1, ()
    plain = None if exifs else 0
    if len(exifs) == 1:
        begin, end = exifs[0]
        plain = plain_orientation(payload[begin + 10 : end])
    if plain:
        return plain, ()
    # As in Pillow, the last of several XMP segments counts, and several EXIF segments form one block.
    xmp = payload[xmps[-1][0] + 4 + len(_XMP) : xmps[-1][1]] if xmps else b""
    exif = b"".join(payload[begin + 10 : end] for begin, end in exifs)
    turned = orientation(_EXIF + exif, xmp)
    if plain == 0 and turned == 1:
        return 1, ()
    # If there is no EXIF, an empty span marks the place for a new segment.
    return turned, tuple(exifs) or ((xmps[0][0], xmps[0][0]),)


def _png(payload: bytes) -> Header:
    """Reads IHDR, and checks whether another chunk, before or after the pixels, changes how they look."""
    if payload[8:16] != b"\0\0\0\x0dIHDR":
        return _UNKNOWN
    width, height, depth, colour = _IHDR.unpack_from(payload, 16)
    plain = depth == 8 and colour in (0, 2, 3) and payload.endswith(b"IEND\xaeB`\x82") and _is_shown_as_stored(payload)
    return Header(height, width, plain=plain and 0 < height <= _LARGEST and 0 < width <= _LARGEST)


def _is_shown_as_stored(payload: bytes) -> bool:
    name = b""
    for name, begin, end in png_chunks(payload):
        if name == b"IDAT":
            continue
        if name in (b"tRNS", b"acTL") or may_change_orientation(name, payload[begin:end]):
            return False
    return name == b"IEND"


def _webp(payload: bytes) -> Header:
    """Reads the first chunk: RFC 9649, sections 2.5 to 2.7. Alpha, animation and orientations are left to Pillow."""
    kind = payload[12:16]
    whole = int.from_bytes(payload[4:8], "little") + 8 <= len(payload)
    if kind == b"VP8 ":
        width = int.from_bytes(payload[26:28], "little") & 0x3FFF
        height = int.from_bytes(payload[28:30], "little") & 0x3FFF
        return Header(height, width, plain=whole and payload[23:26] == b"\x9d\x01\x2a" and height > 0 and width > 0)
    if kind == b"VP8L":
        bits = int.from_bytes(payload[21:25], "little")
        plain = whole and payload[20:21] == b"\x2f" and not bits >> 28 & 1
        return Header((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, plain=plain)
    if kind == b"VP8X":
        width, height = (int.from_bytes(payload[at : at + 3], "little") + 1 for at in (24, 27))
        turned = payload[20] & 0b00000100 and xmp_orientation(payload) > 1
        return Header(height, width, plain=whole and not payload[20] & 0b00011010 and not turned)
    return _UNKNOWN
