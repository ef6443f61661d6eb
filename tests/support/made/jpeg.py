"""Baseline JPEG of any sampling: blocks of one colour each, so that all pixels are known."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["blocks_shown", "jpeg_of_blocks", "segment"]

Factors = tuple[int, int]
"""Blocks of a component in each unit: across, down."""


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_of_blocks(luma: NDArray[Any], sampling: Factors, *, chroma: tuple[int, int] = (90, 150)) -> bytes:
    """A JPEG whose luma is one number for each block of 8 x 8 pixels, and whose chroma is the same everywhere.

    luma: (rows, columns) of blocks; multiples of `sampling`, which is of the luma, beside 1 x 1 of the chroma.
    """
    across, down = sampling
    rows, columns = luma.shape
    bits, before = "", [0, 0, 0]
    for top in range(0, rows, down):
        for left in range(0, columns, across):
            unit = luma[top : top + down, left : left + across].ravel().tolist()
            for component, level in [*((0, each) for each in unit), (1, chroma[0]), (2, chroma[1])]:
                bits += _difference(level - 128 - before[component]) + "0"  # "0" ends the block
                before[component] = level - 128
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    components = b"".join(bytes([n + 1, (across << 4 | down) if n == 0 else 0x11, 0]) for n in range(3))
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, b"\0" + bytes([8] * 64)),
            segment(0xC0, struct.pack(">BHHB", 8, 8 * rows, 8 * columns, 3) + components),
            segment(0xC4, b"\0" + bytes([0, 0, 0, 12, *[0] * 12]) + bytes(range(12))),
            segment(0xC4, b"\x10" + bytes([1, *[0] * 15]) + b"\0"),
            segment(0xDA, b"\x03\x01\0\x02\0\x03\0\0\x3f\0"),
            data,
            b"\xff\xd9",
        )
    )


def blocks_shown(luma: NDArray[Any], chroma: tuple[int, int] = (90, 150)) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) that it shows."""
    level = np.kron(luma, np.ones((8, 8))).astype(np.uint8)
    planes = [Image.fromarray(plane) for plane in (level, *(np.full_like(level, each) for each in chroma))]
    return np.asarray(Image.merge("YCbCr", planes).convert("RGB"))


def _difference(value: int) -> str:
    """The category in four bits, and the value in as many as the category says: ITU-T T.81, section F.1.2.1."""
    category = abs(value).bit_length()
    number = value if value >= 0 else value + (1 << category) - 1
    return f"{category:04b}" + (f"{number:0{category}b}" if category else "")
