"""Reads the header of an encoded image without decoding it: about 4 us for a JPEG.

Knows JPEG, PNG and WebP, the formats that decoders get as they are. A library that reads headers (Pillow) takes ten
times as long, which at thousands of samples a second on the feeder's one thread is the difference between keeping up
and not; and it does not tell what we need: whether the end is there, how many components, arithmetic coding.

Anything unusual (alpha, 16 bits, CMYK, no end marker, another format) is `plain=False`: Pillow decides about it.
"""

from __future__ import annotations

import struct
from struct import Struct as Layout

from msgspec import Struct

from datago_gpu.decode.scans import MOST_SCANS, count_scans

__all__ = ["Header", "read_header"]

_SEGMENT = Layout(">BBH")
_FRAME = Layout(">BHHB")
_CHUNK = Layout(">I4s")
_IHDR = Layout(">IIBB")

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _SCAN = 0xE1, 0xDA
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))

_MOST_SEGMENTS = 1000
"""A large colour profile takes 255. A payload of nothing else would hold up the feeder's loop for seconds."""


class Header(Struct, frozen=True):
    """What a header says. Sizes are as stored, in pixels, before `orientation`."""

    height: int
    width: int
    orientation: int = 1
    """EXIF orientation, 1 to 8; 1 is upright."""
    plain: bool = True
    """The decoders take the payload as it is. Otherwise Pillow has to look at it."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as displayed."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


_UNKNOWN = Header(0, 0, plain=False)


def read_header(payload: bytes) -> Header:
    """Look at an encoded image. Where the format is not known or the header is broken, all but `plain` is empty."""
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
    """Segments up to the frame header: ITU-T T.81, annex B."""
    at, orientation = 2, 0
    for _ in range(_MOST_SEGMENTS):
        prefix, marker, length = _SEGMENT.unpack_from(payload, at)
        if prefix != 0xFF or marker in _WITHOUT_LENGTH or marker == 0xFF:
            return _UNKNOWN  # fill bytes are legal, and rare enough to leave to Pillow
        if marker in _FRAMES:
            break
        if marker == _APP1 and not orientation and payload.startswith(b"Exif\0\0", at + 4):
            orientation = _exif_orientation(payload[at + 10 : at + 2 + length])
        at += 2 + length
    else:
        return _UNKNOWN
    precision, height, width, components = _FRAME.unpack_from(payload, at + 4)
    scan = _scan_offset(payload, at + 2 + length)
    common = marker in (_BASELINE, _EXTENDED, _PROGRESSIVE) and precision == 8 and components in (1, 3)
    ended = scan > 0 and (payload.endswith(b"\xff\xd9") or payload.rfind(b"\xff\xd9", scan) > 0)
    common = common and (marker != _PROGRESSIVE or count_scans(payload) <= MOST_SCANS)
    return Header(height, width, orientation or 1, plain=common and ended and height > 0 and width > 0)


def _scan_offset(payload: bytes, at: int) -> int:
    """Where the first scan begins, from `at` on; 0 where there is none: DALI may crash on such a JPEG."""
    for _ in range(_MOST_SEGMENTS):
        prefix, marker, length = _SEGMENT.unpack_from(payload, at)
        if marker == _SCAN or prefix != 0xFF or marker in _WITHOUT_LENGTH:
            return at if prefix == 0xFF and marker == _SCAN else 0
        at += 2 + length
    return 0


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory: Exif 2.32, section 4.6. 1 where there is none or it makes no sense."""
    order = "<" if tiff.startswith(b"II") else ">"
    short, word = Layout(order + "H"), Layout(order + "I")
    try:
        directory = word.unpack_from(tiff, 4)[0]
        for entry in range(short.unpack_from(tiff, directory)[0]):
            at = directory + 2 + 12 * entry
            if short.unpack_from(tiff, at)[0] == 0x0112:
                value: int = short.unpack_from(tiff, at + 8)[0]
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _png(payload: bytes) -> Header:
    """IHDR and the chunks before the pixels: PNG specification, sections 5 and 11."""
    if payload[12:16] != b"IHDR":
        return _UNKNOWN
    width, height, depth, colour = _IHDR.unpack_from(payload, 16)
    plain = depth == 8 and colour in (0, 2, 3) and payload.endswith(b"IEND\xaeB`\x82") and _shows_as_stored(payload)
    return Header(height, width, plain=plain and height > 0 and width > 0)


def _shows_as_stored(payload: bytes) -> bool:
    """Whether no chunk before the pixels changes how they look."""
    at = 8
    for _ in range(_MOST_SEGMENTS):
        length, name = _CHUNK.unpack_from(payload, at)
        if name in (b"tRNS", b"eXIf", b"acTL"):
            return False
        if name == b"IDAT":
            return True
        at += 12 + length
    return False


def _webp(payload: bytes) -> Header:
    """The first chunk: RFC 9649, sections 2.5 to 2.7. Alpha, EXIF and animation are left to Pillow."""
    kind = payload[12:16]
    whole = int.from_bytes(payload[4:8], "little") + 8 <= len(payload)
    if kind == b"VP8 ":
        width = int.from_bytes(payload[26:28], "little") & 0x3FFF
        height = int.from_bytes(payload[28:30], "little") & 0x3FFF
        return Header(height, width, plain=whole and payload[23:26] == b"\x9d\x01\x2a" and height > 0 and width > 0)
    if kind == b"VP8L":
        bits = int.from_bytes(payload[21:25], "little")
        return Header((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, plain=whole and not bits >> 28 & 1)
    if kind == b"VP8X":
        width, height = (int.from_bytes(payload[at : at + 3], "little") + 1 for at in (24, 27))
        return Header(height, width, plain=whole and not payload[20] & 0b00011010)
    return _UNKNOWN
