"""A TIFF reader that corrects Pillow's errors for more than 8 bits per channel."""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from datago_gpu.imaging.alpha import unpremultiply

__all__ = ["Tiff"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_LENGTHS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_LENGTHS = 317, 322, 323, 324, 325
_EXTRA, _FORMAT = 338, 339

_OF_ALL_PLANES = (
    _WIDTH, _HEIGHT, _COMPRESSION, _FILL_ORDER, _ORIENTATION, _ROWS, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT
)  # fmt: skip
_OF_EACH_PLANE = (_STRIP_OFFSETS, _STRIP_LENGTHS, _TILE_OFFSETS, _TILE_LENGTHS)
_BLACK_IS_ZERO, _SEPARATE, _UNSIGNED, _SIGNED, _ASSOCIATED = 1, 2, 1, 2, 1


class Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader, with these errors corrected. Pillow

    - shows 16-bit gray as a negative if white is zero (little-endian), or refuses it (big-endian);
    - reads 16-bit planes as if they had 8 bits, which shows noise;
    - refuses big-endian unsigned 32-bit integers, and swaps the bytes of compressed ones.
    """

    def _setup(self) -> None:
        tags, self._inverted = self.tag_v2, False
        bits, kind = tags.get(_BITS, (1,)), tags.get(_FORMAT, (_UNSIGNED,))
        if bits == (16,) and tags.get(_PHOTOMETRIC, 0) == 0:
            self._inverted = True
            tags[_PHOTOMETRIC] = _BLACK_IS_ZERO
        if bits == (32,) and kind == (_UNSIGNED,) and tags.prefix == TiffImagePlugin.MM:
            tags[_FORMAT] = (_SIGNED,)
        super()._setup()
        if self.use_load_libtiff:  # libtiff returns numbers in the machine's byte order
            self.tile = [tile._replace(args=_native(tile.args)) for tile in self.tile]

    @property
    def bits(self) -> int:
        """Number of bits of the first channel."""
        return int(self.tag_v2.get(_BITS, (1,))[0])

    @property
    def is_associated(self) -> bool:
        """Whether colours were multiplied by alpha."""
        return _ASSOCIATED in self.tag_v2.get(_EXTRA, ())

    @property
    def has_planes(self) -> bool:
        """Whether the channels are stored in separate planes of 16 bits each."""
        return self.bits == 16 and self.tag_v2.get(_PLANAR, 1) == _SEPARATE and len(self.getbands()) > 1

    def load(self) -> Any:
        if self.tile and self.has_planes:
            planes = self.planes()
            if self.is_associated:
                planes = unpremultiply(planes)
            self.tile = []
            high = [Image.fromarray((plane >> 8).astype(np.uint8)) for plane in np.moveaxis(planes, 2, 0)]
            self.im = Image.merge(self.mode, high).im
        return super().load()

    def load_end(self) -> None:
        super().load_end()  # turns the picture upright
        if self._inverted:
            inverted = Image.fromarray(65535 - np.asarray(self).astype(np.uint16))
            self._mode, self.im = inverted.mode, inverted.im

    def planes(self) -> NDArray[np.uint16]:
        """Returns (H, W, C), upright. Each plane is read as a gray image, with a new directory after the payload."""
        assert isinstance(self.fp, io.BytesIO)
        payload = memoryview(self.fp.getvalue())
        found = [_gray(payload, self.tag_v2, number) for number in range(len(self.getbands()))]
        return np.stack(found, axis=2)


def _gray(payload: memoryview, tags: ImageFileDirectory_v2, number: int) -> NDArray[np.uint16]:
    """Reads one 16-bit plane."""
    entries: dict[int, tuple[int, ...]] = {tag: (int(tags[tag]),) for tag in _OF_ALL_PLANES if tag in tags}
    for tag in _OF_EACH_PLANE:
        if tag in tags:
            count = len(tags[tag]) // tags[_SAMPLES]
            entries[tag] = tags[tag][number * count : (number + 1) * count]
    entries |= {_BITS: (16,), _PHOTOMETRIC: (_BLACK_IS_ZERO,), _SAMPLES: (1,)}
    order = "<" if tags.prefix == TiffImagePlugin.II else ">"
    padding = len(payload) % 2
    offset = len(payload) + padding
    head = tags.prefix + struct.pack(f"{order}HI", 42, offset)
    whole = b"".join((head, payload[8:], bytes(padding), _directory(entries, order, offset)))
    return np.asarray(Tiff(io.BytesIO(whole))).astype(np.uint16)


def _directory(entries: dict[int, tuple[int, ...]], order: str, offset: int) -> bytes:
    """Makes a directory at `offset` of a file, with all values as 32-bit words: TIFF 6.0, section 2."""
    words, values = struct.Struct(f"{order}HHII"), b""
    behind = offset + 2 + 12 * len(entries) + 4
    result = struct.pack(f"{order}H", len(entries))
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        place = numbers[0] if len(numbers) == 1 else behind + len(values)
        result += words.pack(tag, 4, len(numbers), place)
        values += packed if len(numbers) > 1 else b""
    return result + bytes(4) + values


def _native(args: Any) -> Any:
    """Returns the decoder arguments of a tile, with signed numbers in the machine's byte order."""
    stored, *rest = args
    if stored in ("I;16BS", "I;32BS"):
        stored = stored[:4] + ("S" if sys.byteorder == "little" else "BS")
    return (stored, *rest)
