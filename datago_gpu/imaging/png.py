"""Prepares PNGs for Pillow: removes chunks that do not affect the pixels, because Pillow refuses images over them."""

from __future__ import annotations

import struct
import zlib

from PIL import PngImagePlugin

from datago_gpu.imaging.chunks import may_hold_orientation, png_chunks

__all__ = ["Png", "without_useless_chunks"]

_ANCILLARY = 0x20
"""Bit of the first letter of a chunk's name: PNG specification, section 5.4."""
_COLOUR_TYPE = 25
_SHORTEST_TRNS = {0: 2, 2: 6}
"""Colour type -> minimum number of bytes of a tRNS chunk."""
_MOST_KEPT = 16
"""Maximum number of ancillary chunks kept; one of each type is usual. Pillow unpacks up to 1 MiB of each text, and
refuses an image with 64 MiB of them."""
_LEVELS = {"L;2": 3, "L;4": 15}


def without_useless_chunks(payload: bytes | memoryview) -> bytes | memoryview:
    """Removes the chunks of a PNG that do not change how it looks, and ancillary chunks that are damaged.

    Pillow refuses an image if a text is too long, the checksum of a profile is wrong, or the resolution is truncated.
    Widely used decoders ignore such chunks. Kept are all critical chunks, and tRNS (transparency) and orientation
    chunks that Pillow can read and whose checksum is right.
    """
    view, pieces, kept, left = memoryview(payload), [], 0, _MOST_KEPT
    try:
        for name, begin, end in png_chunks(payload):
            if not name[0] & _ANCILLARY or end + 4 > len(view):
                continue
            if left and _is_needed(view, name, begin, end):
                left -= 1
            else:
                pieces.append(view[kept : begin - 8])
                kept = end + 4
    except struct.error:
        pass  # the payload ends early: Pillow refuses it
    return b"".join((*pieces, view[kept:])) if pieces else payload


def _is_needed(view: memoryview, name: bytes, begin: int, end: int) -> bool:
    """Returns whether to keep an ancillary chunk."""
    data = bytes(view[begin:end])
    if name == b"tRNS":
        fits = len(data) >= _SHORTEST_TRNS.get(view[_COLOUR_TYPE], 0)
    else:
        fits = may_hold_orientation(name, data) and _can_unpack(name, data)
    return fits and zlib.crc32(view[begin - 4 : end]) == int.from_bytes(view[end : end + 4])


def _can_unpack(name: bytes, data: bytes) -> bool:
    """Returns whether Pillow can read an orientation chunk: a compressed one may be too long or broken."""
    _, _, rest = data.partition(b"\0")
    if name == b"zTXt":
        method, packed = rest[:1], rest[1:]
    elif name == b"iTXt" and rest[:1] != b"\0":
        method, packed = rest[1:2], rest[2:].split(b"\0", 2)[-1]
    else:
        return True
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return method == b"\0" and not unpacker.unconsumed_tail


class Png(PngImagePlugin.PngImageFile):
    """Pillow's reader with a fix for gray: it scales pixels to 8 bits, but leaves the transparent level as stored."""

    def _open(self) -> None:
        super()._open()
        level = self.info.get("transparency")
        if self.mode == "L" and isinstance(level, int):
            highest = _LEVELS.get(str(self.tile[0].args), 255)
            self.info["transparency"] = (level & highest) * 255 // highest  # higher bits must be ignored
