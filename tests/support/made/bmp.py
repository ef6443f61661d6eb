"""BMP of every header and depth that is in use."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bmp", "bmp_rle8"]

_MASKS = {"555": (0x7C00, 0x03E0, 0x001F, 0), "565": (0xF800, 0x07E0, 0x001F, 0)}
_BGRA = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)


def bmp(pixels: NDArray[Any], bits: int, *, header: int = 40, masks: str = "", top_down: bool = False) -> bytes:
    """A BMP: of indices (H, W) with gray colours for 1, 4 and 8 bits; of (H, W) numbers for 16; else (H, W, C), BGR(A).

    header: 12 (OS/2), 40, 108 (version 4). masks: "555", "565" or "8888".
    """
    height, width = pixels.shape[:2]
    lines = pixels if top_down else pixels[::-1]
    if bits < 8:
        spread = (lines[..., None].astype(np.uint8) >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
        packed = np.packbits(spread.reshape(height, -1), axis=1)
    else:
        packed = np.ascontiguousarray(lines).view(np.uint8).reshape(height, -1)
    data = b"".join(row.tobytes() + bytes(-len(row) % 4) for row in packed)
    colours = [round(index * 255 / (2**bits - 1)) for index in range(2**bits)] if bits <= 8 else []
    table = b"".join(bytes([level] * 3 + [0] * (header != 12)) for level in colours)
    fields = b""
    if masks:
        table_of_masks = struct.pack("<4I", *_MASKS.get(masks, _BGRA))
        fields = table_of_masks[: 16 if header > 40 else 12]
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        high = -height if top_down else height
        info = struct.pack("<IiiHHIIiiII", header, width, high, 1, bits, 3 if masks else 0, len(data), 0, 0, 0, 0)
        info = (info + (fields if header > 40 else b"")).ljust(header, b"\0") + (fields if header == 40 else b"")
    return _file(info + table, data)


def bmp_rle8(pixels: NDArray[Any]) -> bytes:
    """Indices (H, W) of 256 grays, in runs."""
    height, width = pixels.shape
    data = b""
    for row in pixels[::-1].tolist():
        at = 0
        while at < width:
            run = next((n for n in range(1, min(255, width - at)) if row[at + n] != row[at]), min(255, width - at))
            data += bytes([run, row[at]])
            at += run
        data += b"\0\0"
    data += b"\0\1"
    table = b"".join(bytes([level, level, level, 0]) for level in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return _file(info + table, data)


def _file(head: bytes, data: bytes) -> bytes:
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(data), 0, 0, 14 + len(head)) + head + data
