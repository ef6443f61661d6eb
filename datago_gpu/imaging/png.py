"""PNG for Pillow: without the chunks that say nothing about the pixels, which Pillow is strict about."""

from __future__ import annotations

import struct
import zlib

from PIL import PngImagePlugin

from datago_gpu.imaging.chunks import png_chunks, tells_turns

__all__ = ["Png", "essential"]

_ANCILLARY = 0x20
"""Bit of the first letter of a chunk's name: PNG specification, section 5.4."""
_COLOUR_TYPE = 25
_SHORTEST_TRNS = {0: 2, 2: 6}
"""Colour type -> bytes that a tRNS chunk needs at the least."""
_MOST_KEPT = 16
"""Ancillary chunks; one of each kind is usual. Pillow unpacks 1 MiB of a text, and refuses a picture with 64 MiB."""
_LEVELS = {"L;2": 3, "L;4": 15}


def essential(payload: bytes | memoryview) -> bytes | memoryview:
    """Leave out the chunks of a PNG that do not change how it looks, and those that are damaged.

    Pillow refuses a picture whose text is too long, whose checksum of a profile is wrong, or whose resolution is cut
    short. Decoders that are in wide use pass over such chunks. What stays: the critical chunks as they are, tRNS
    (transparency), and what tells the orientation, where Pillow can take it and its checksum is right.
    """
    view, pieces, kept, left = memoryview(payload), [], 0, _MOST_KEPT
    try:
        for name, begin, end in png_chunks(payload):
            if not name[0] & _ANCILLARY or end + 4 > len(view):
                continue
            if left and _counts(view, name, begin, end):
                left -= 1
            else:
                pieces.append(view[kept : begin - 8])
                kept = end + 4
    except struct.error:
        pass  # it ends early: Pillow refuses it
    return b"".join((*pieces, view[kept:])) if pieces else payload


def _counts(view: memoryview, name: bytes, begin: int, end: int) -> bool:
    """Whether an ancillary chunk is to be kept."""
    data = bytes(view[begin:end])
    if name == b"tRNS":
        fits = len(data) >= _SHORTEST_TRNS.get(view[_COLOUR_TYPE], 0)
    else:
        fits = tells_turns(name, data) and _unpacks(name, data)
    return fits and zlib.crc32(view[begin - 4 : end]) == int.from_bytes(view[end : end + 4])


def _unpacks(name: bytes, data: bytes) -> bool:
    """Whether Pillow takes a chunk that tells the orientation: one that is compressed may be too long, or odd."""
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
    """Pillow's reader, which takes the transparent level of gray as stored, and the pixels scaled to 8 bits."""

    def _open(self) -> None:
        super()._open()
        level = self.info.get("transparency")
        if self.mode == "L" and isinstance(level, int):
            highest = _LEVELS.get(str(self.tile[0].args), 255)
            self.info["transparency"] = (level & highest) * 255 // highest  # higher bits are to be ignored
