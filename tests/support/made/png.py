"""PNG of every colour type and depth, interlaced or not, with any chunks, right or damaged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["chunk", "png"]

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
_BY_CHANNELS = {1: GRAY, 2: GRAY_ALPHA, 3: RGB, 4: RGBA}
_PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
"""Adam7: first column, first row, step to the right, step down."""


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A chunk, with its own checksum unless another is given."""
    right = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", right if crc is None else crc)


def png(
    pixels: NDArray[Any],
    depth: int = 8,
    *,
    palette: Sequence[tuple[int, int, int]] = (),
    before: bytes = b"",
    behind: bytes = b"",
    interlaced: bool = False,
    filtered: bool = False,
    idat: int = 1 << 20,
) -> bytes:
    """A PNG of samples (H, W, C) as they are to be stored.

    palette: its colours; the samples are then indices. before, behind: chunks on either side of the pixels. filtered:
    every filter in turn. idat: bytes in each IDAT chunk.
    """
    height, width, channels = pixels.shape
    colour = PALETTE if palette else _BY_CHANNELS[channels]
    passes = _PASSES if interlaced else [(0, 0, 1, 1)]
    seen = [pixels[y::down, x::right] for x, y, right, down in passes]
    rows = b"".join(_rows(part, depth, filtered) for part in seen if part.size)
    data = zlib.compress(rows)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))]
    if palette:
        parts.append(chunk(b"PLTE", bytes(np.array(palette, np.uint8))))
    parts += [before, *(chunk(b"IDAT", data[at : at + idat]) for at in range(0, len(data), idat)), behind]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def _rows(pixels: NDArray[Any], depth: int, filtered: bool) -> bytes:
    height, width, channels = pixels.shape
    samples = pixels.reshape(height, width * channels)
    if depth < 8:
        bits = (samples[..., None].astype(np.uint8) >> np.arange(depth - 1, -1, -1, dtype=np.uint8)) & 1
        packed = np.packbits(bits.reshape(height, -1), axis=1)
    else:
        packed = samples.astype(">u2" if depth == 16 else np.uint8).view(np.uint8).reshape(height, -1)
    step = max(1, channels * depth // 8)
    lines = np.vstack([np.zeros_like(packed[:1]), packed]).astype(np.int32)
    result = b""
    for at in range(1, height + 1):
        kind = (at - 1) % 5 if filtered else 0
        here, above = lines[at], lines[at - 1]
        left, corner = (np.concatenate([np.zeros(step, np.int32), line])[: len(line)] for line in (here, above))
        result += bytes([kind]) + ((here - _PREDICTED[kind](left, above, corner)) % 256).astype(np.uint8).tobytes()
    return result


def _paeth(left: NDArray[Any], above: NDArray[Any], corner: NDArray[Any]) -> NDArray[Any]:
    guess = left + above - corner
    to_left, to_above, to_corner = np.abs(guess - left), np.abs(guess - above), np.abs(guess - corner)
    nearer = np.where(to_above <= to_corner, above, corner)
    return np.where((to_left <= to_above) & (to_left <= to_corner), left, nearer)


_PREDICTED: list[Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], Any]] = [
    lambda left, above, corner: 0,
    lambda left, above, corner: left,
    lambda left, above, corner: above,
    lambda left, above, corner: (left + above) // 2,
    _paeth,
]
