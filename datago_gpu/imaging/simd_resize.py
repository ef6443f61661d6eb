"""Resizes with cykooz-resizer, which uses the vector instructions of the CPU. The only file that calls cykooz-resizer.

plain_resize.py has the same functions for machines where cykooz-resizer is not installed. Safe on any thread.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.imaging.geometry import Region, Size

__all__ = ["NAME", "ArrayResizer", "resize_image"]

NAME = "cykooz-resizer"

_FILTERS = {"lanczos": ResizeAlg.convolution(FilterType.lanczos3), "nearest": ResizeAlg.nearest()}

_KINDS = {
    ("uint8", 3): PixelType.U8x3,
    ("uint16", 1): PixelType.U16,
    ("uint16", 2): PixelType.U16x2,
    ("uint16", 3): PixelType.U16x3,
    ("uint16", 4): PixelType.U16x4,
    ("int32", 1): PixelType.I32,
}

_of_thread = threading.local()


def resize_image(image: Image.Image, box: Region, size: Size, name: str) -> Image.Image:
    """Crops `box` of an image and scales it to `size`. name: of the filter, "lanczos" or "nearest"."""
    if image.mode == "LA":  # the resizer does not support LA
        return resize_image(image.convert("RGBA"), box, size, name).convert("LA")
    result = Image.new(image.mode, (size[1], size[0]))
    _resizer().resize_pil(image, result, _options(box, name, alpha=False))
    return result


class ArrayResizer:
    """Crops and scales regions of one array (H, W, C): uint8 with C = 3, uint16 with C = 1 to 4, or int32 with C = 1.

    Of 2 or 4 channels, the last one is alpha. The whole array is copied to the resizer, once, which reads pixels
    outside of the regions. Copying less saves almost nothing.
    """

    def __init__(self, pixels: NDArray[Any]) -> None:
        height, width, self._channels = pixels.shape
        self._dtype, self._kind = pixels.dtype, _KINDS[pixels.dtype.name, self._channels]
        self._source = ImageData(width, height, self._kind, pixels.tobytes())

    def resize(self, box: Region, size: Size, name: str) -> NDArray[Any]:
        """Crops `box` and scales it to `size`. The result may be read-only."""
        result = ImageData(size[1], size[0], self._kind)
        _resizer().resize(self._source, result, _options(box, name, alpha=self._channels in (2, 4)))
        return np.frombuffer(result.get_buffer(), self._dtype).reshape(*size, self._channels)


def _options(box: Region, name: str, *, alpha: bool) -> ResizeOptions:
    top, left, height, width = box
    return ResizeOptions(_FILTERS[name], use_alpha=alpha, crop_box=CropBox(left, top, width, height))


def _resizer() -> Resizer:
    """Returns this thread's Resizer. A Resizer keeps working memory and cannot be used by two threads at once."""
    if not hasattr(_of_thread, "resizer"):
        _of_thread.resizer = Resizer()
    resizer: Resizer = _of_thread.resizer
    return resizer
