"""Writes pixels in the form in which they are delivered: layout, dtype and normalisation, on the CPU with numpy."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from datago_gpu.config import ImageConfig

__all__ = ["Form", "unnormalised"]


def unnormalised(image: ImageConfig) -> ImageConfig:
    """The settings for pixels that are numbers of their own, as those of masks."""
    return msgspec.structs.replace(image, dtype="uint8", mean=None, std=None)


class Form:
    """Writes 8-bit images as the settings ask for them: RGB, `(x / 255 - mean) / std` where the dtype is floating.

    mask: one channel of numbers instead, which stay as they are: uint8, or int32 where `mask_dtype` says so.
    """

    def __init__(self, image: ImageConfig, *, mask: bool = False) -> None:
        image = unnormalised(image) if mask else image
        self._channels = 1 if mask else 3
        self.channels_first = image.layout == "CHW"
        self.dtype = np.dtype("int32" if mask and image.mask_dtype == "int32" else image.dtype)
        self._keeps = self.dtype.kind in "ui"
        mean = np.asarray(image.mean or (0.0, 0.0, 0.0), np.float64)
        std = np.asarray(image.std or (1.0, 1.0, 1.0), np.float64)
        self._scale = (1 / (255 * std)).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)
        levels = np.arange(256, dtype=np.float32)
        self._halves = (levels * self._scale[:, None] + self._shift[:, None]).astype(np.float16)

    def empty(self, height: int, width: int, *batch: int, least: DTypeLike = np.uint8) -> NDArray[Any]:
        """Memory for images of this size: (*batch, H, W, C) or (*batch, C, H, W).

        least: of masks, what their numbers need at the least.
        """
        shape = (self._channels, height, width) if self.channels_first else (height, width, self._channels)
        return np.empty((*batch, *shape), np.result_type(self.dtype, least))

    def write(self, pixels: NDArray[Any], out: NDArray[Any]) -> None:
        """Put one image (H, W, C) into memory from `empty`: uint8, or a mask of any dtype."""
        if self._keeps and not self.channels_first:
            out[:] = pixels
            return
        planes = out if self.channels_first else out.transpose(2, 0, 1)
        for index, plane in enumerate(planes):
            self._write_channel(pixels[:, :, index], index, plane)

    def _write_channel(self, levels: NDArray[Any], index: int, plane: NDArray[Any]) -> None:
        if self._keeps:
            plane[:] = levels
        elif self.dtype == np.float32:
            np.multiply(levels, self._scale[index], out=plane)
            plane += self._shift[index]
        else:
            # numpy rounds to float16 so slowly that a table of the 256 levels is 6 times as quick. For float32 it is
            # the multiplication that is quicker, twice where channels come first.
            np.take(self._halves[index], levels, out=plane, mode="clip")
