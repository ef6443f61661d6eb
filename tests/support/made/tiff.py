"""TIFF of any depth, byte order and layout of channels."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["tiff"]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK = 0, 1, 2, 5
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2
_SHORT, _LONG = 3, 4


def tiff(
    pixels: NDArray[Any],
    photometric: int = RGB,
    *,
    order: str = "<",
    planar: bool = False,
    extra: int | None = None,
    deflate: bool = False,
    predictor: bool = False,
    orientation: int = 1,
    rows: int = 16,
    bits: int = 0,
    tile: int = 0,
) -> bytes:
    """A TIFF of samples (H, W, C): any dtype of whole numbers.

    extra: what the last channel is. rows: of each strip. tile: side of the tiles that take the place of strips.
    bits: of a sample; 12 packs uint16 of one channel.
    """
    height, width, channels = pixels.shape
    planes = [pixels[:, :, [index]] for index in range(channels)] if planar else [pixels]
    parts = [part for plane in planes for part in (_tiles(plane, tile) if tile else _split(plane, rows))]
    strips = [_strip(part, order, bits, deflate, predictor) for part in parts]
    offsets = 8 + np.cumsum([0, *map(len, strips)])
    depth = bits or 8 * pixels.dtype.itemsize
    entries: dict[int, tuple[int, list[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [depth] * channels),
        259: (_SHORT, [8 if deflate else 1]),
        262: (_SHORT, [photometric]),
        324 if tile else 273: (_LONG, offsets[:-1].tolist()),
        274: (_SHORT, [orientation]),
        277: (_SHORT, [channels]),
        325 if tile else 279: (_LONG, [len(strip) for strip in strips]),
        284: (_SHORT, [2 if planar else 1]),
        317: (_SHORT, [2 if predictor else 1]),
        339: (_SHORT, [2 if pixels.dtype.kind == "i" else 1] * channels),
    }
    entries |= {322: (_LONG, [tile]), 323: (_LONG, [tile])} if tile else {278: (_LONG, [rows])}
    if extra is not None:
        entries[338] = (_SHORT, [extra])
    body = b"".join(strips)
    body += bytes(len(body) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + _directory(entries, order, 8 + len(body))


def _split(pixels: NDArray[Any], rows: int) -> list[NDArray[Any]]:
    return [pixels[at : at + rows] for at in range(0, len(pixels), rows)]


def _tiles(pixels: NDArray[Any], side: int) -> list[NDArray[Any]]:
    """All of them whole: what lies beyond the picture is filled."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)))
    return [tile for row in _split(padded, side) for tile in np.split(row, padded.shape[1] // side, axis=1)]


def _strip(pixels: NDArray[Any], order: str, bits: int, deflate: bool, predictor: bool) -> bytes:
    if predictor:
        pixels = np.concatenate([pixels[:, :1], np.diff(pixels, axis=1)], axis=1)
    if bits == 12:
        spread = (pixels[..., None] >> np.arange(11, -1, -1, dtype=np.uint16)) & 1
        data = np.packbits(spread.reshape(len(pixels), -1).astype(np.uint8), axis=1).tobytes()
    else:
        data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    return zlib.compress(data) if deflate else data


def _directory(entries: dict[int, tuple[int, list[int]]], order: str, offset: int) -> bytes:
    behind = offset + 2 + 12 * len(entries) + 4
    table, values = struct.pack(f"{order}H", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == _SHORT else 'I'}", *numbers)
        if len(packed) > 4:
            table += struct.pack(f"{order}HHII", tag, kind, len(numbers), behind + len(values))
            values += packed + bytes(len(packed) % 2)
        else:
            table += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    return table + bytes(4) + values
