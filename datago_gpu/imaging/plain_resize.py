"""Resizes with Pillow, where cykooz-resizer is not installed: it has no wheel for Linux on aarch64.

The functions are those of simd_resize.py, and so are the pixels: they differ by at most 2 of 255. Pillow takes 4 to 7
times as much CPU time on x86-64. Safe on any thread.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.imaging.alpha import premultiply, unpremultiply
from datago_gpu.imaging.geometry import Region, Size

__all__ = ["NAME", "ArrayResizer", "resize_image"]

NAME = "Pillow"

_LANCZOS_REACH = 3
"""How many pixels, of the smaller of the two sizes, Lanczos3 looks at on either side."""
_PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}


def resize_image(image: Image.Image, box: Region, size: Size, name: str) -> Image.Image:
    """Crops `box` of an image and scales it to `size`. name: of the filter, "lanczos" or "nearest"."""
    if name == "nearest":
        top, left, height, width = box
        return image.resize((size[1], size[0]), Image.Resampling.NEAREST, (left, top, left + width, top + height))
    if image.mode in _PREMULTIPLIED:  # hidden colours must not show
        return _lanczos(image.convert(_PREMULTIPLIED[image.mode]), box, size).convert(image.mode)
    return _lanczos(image, box, size)


def _lanczos(image: Image.Image, box: Region, size: Size) -> Image.Image:
    """Scales heights first, then widths, as cykooz-resizer does.

    Pillow's order is the opposite. Each pass clips what overshoots 0 or 255, so the order is visible: pixels beside
    sharp edges would differ by 10 and more. Two calls of Pillow take a third longer than one.
    """
    top, left, height, width = box
    reach = _LANCZOS_REACH * max(1.0, width / size[1]) + 1
    begin, end = max(0, math.floor(left - reach)), min(image.width, math.ceil(left + width + reach))
    high = image.resize((end - begin, size[0]), Image.Resampling.LANCZOS, (begin, top, end, top + height))
    left -= begin
    return high.resize((size[1], size[0]), Image.Resampling.LANCZOS, (left, 0, min(left + width, high.width), size[0]))


class ArrayResizer:
    """Crops and scales regions of one array (H, W, C): uint8 with C = 3, uint16 with C = 1 to 4, or int32 with C = 1.

    Of 2 or 4 channels, the last one is alpha.
    """

    def __init__(self, pixels: NDArray[Any]) -> None:
        self._has_alpha = pixels.shape[2] in (2, 4)
        self._pixels = premultiply(pixels) if self._has_alpha else pixels

    def resize(self, box: Region, size: Size, name: str) -> NDArray[Any]:
        """Crops `box` and scales it to `size`. The result may be read-only."""
        pixels = self._pixels
        if pixels.dtype == np.uint8:
            resized = resize_image(Image.fromarray(pixels), box, size, name)
            return np.frombuffer(resized.tobytes(), np.uint8).reshape(*size, pixels.shape[2])
        bands = (Image.fromarray(np.ascontiguousarray(pixels[:, :, band])) for band in range(pixels.shape[2]))
        resized_bands = [np.asarray(resize_image(band, box, size, name)) for band in bands]
        stacked = np.stack(resized_bands, axis=2).astype(pixels.dtype, copy=False)
        return unpremultiply(stacked) if self._has_alpha else stacked
