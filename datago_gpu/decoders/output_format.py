"""Converts pixels to the output format: layout, dtype and normalisation, on the CPU with numpy."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from datago_gpu.config import ImageConfig
from datago_gpu.decoders.aligned_memory import empty_aligned

__all__ = ["OutputFormat", "bfloat16_bits", "kind_of", "makes_one_array", "without_normalisation"]

_STORED = {"bfloat16": "uint16"}
"""Dtypes that numpy does not have -> those of the arrays that hold their bits."""


def without_normalisation(image: ImageConfig) -> ImageConfig:
    """Returns the settings without normalisation, as uint8, for masks. They follow the first view."""
    return msgspec.structs.replace(image.of_view(0), dtype="uint8", mean=None, std=None)


def kind_of(image: ImageConfig, *, mask: bool) -> tuple[str, bool]:
    """Returns the filter for masks ("" for images), and whether the images or masks keep their own channels."""
    filter_name = image.mask_interpolation if mask else ""
    return filter_name, not image.image_to_rgb8 and filter_name != "nearest"


def makes_one_array(image: ImageConfig, *, own: bool) -> bool:
    """Returns whether images of one target become one array. own: whether they keep their own channels."""
    return not (own or image.mixed_buckets or image.pre_encode_images)


def bfloat16_bits(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds finite numbers to bfloat16, ties to the even neighbour, as torch does. Returns the bits."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class OutputFormat:
    """Converts 8-bit RGB images to the format that the settings name. Floating dtypes are `(x / 255 - mean) / std`.

    mask: for masks, which have one channel and keep their numbers: uint8, or int32 if `mask_dtype` says so.
    """

    def __init__(self, image: ImageConfig, *, mask: bool = False) -> None:
        image = without_normalisation(image) if mask else image
        self._channels = 1 if mask else 3
        self.channels_first = image.layout == "CHW"
        self.dtype = np.dtype(
            "int32" if mask and image.mask_dtype == "int32" else _STORED.get(image.dtype, image.dtype)
        )
        """As the arrays have it: uint16 for bfloat16, see `as_bfloat16`."""
        self._keeps = image.dtype == "uint8"
        mean = np.asarray(image.mean or (0.0, 0.0, 0.0), np.float64)
        std = np.asarray(image.std or (1.0, 1.0, 1.0), np.float64)
        self._scale = (1 / (255 * std)).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)
        levels = np.arange(256, dtype=np.float32)
        numbers = levels * self._scale[:, None] + self._shift[:, None]
        self.table = bfloat16_bits(numbers) if image.dtype == "bfloat16" else numbers.astype(np.float16)
        """(3, 256): what each level becomes in each channel, for a dtype of 16 bits."""

    def empty(self, height: int, width: int, *batch: int, least: DTypeLike = np.uint8) -> NDArray[Any]:
        """Allocates memory for images of this size: (*batch, H, W, C) or (*batch, C, H, W).

        least: the smallest dtype that holds the numbers of the masks.
        """
        return empty_aligned((*batch, *self.shape(height, width)), np.result_type(self.dtype, least))

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns the shape of an image of this size."""
        return (self._channels, height, width) if self.channels_first else (height, width, self._channels)

    def write(self, pixels: NDArray[Any], out: NDArray[Any]) -> None:
        """Writes one image (H, W, C), uint8 or a mask of any dtype, into memory from `empty`."""
        # A view that is mirrored or turned is copied by channels. numpy would copy it pixel by pixel, which takes four
        # times as long.
        in_order = pixels.strides[1:] == (pixels.shape[2] * pixels.itemsize, pixels.itemsize)
        if self._keeps and not self.channels_first and in_order:
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
            # numpy rounds to float16 so slowly that a table of the 256 levels is 6 times as fast. For float32 the
            # multiplication is faster: twice as fast if channels come first.
            np.take(self.table[index], levels, out=plane, mode="clip")
