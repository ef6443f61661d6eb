"""Crops and scales pixels in one pass. The only file that calls cykooz-resizer. Safe on any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.imaging.geometry import Cut, Region, Size

__all__ = ["common_shrinkage", "scale_array", "scale_image", "scale_views", "shrinkage"]

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


def shrinkage(box: Region, size: Size) -> int:
    """Returns by how much (8, 4, 2 or 1) a JPEG may be reduced when decoded, so that `box` still covers `size`."""
    shrink = min(box[2] / size[0], box[3] / size[1])
    return next((divisor for divisor in (8, 4, 2) if shrink >= divisor), 1)


def common_shrinkage(cuts: Iterable[Cut]) -> int:
    """Returns the same for several boxes and sizes of one JPEG. A JPEG of which a box is not scaled keeps its size."""
    return min(shrinkage(box, size) if size else 1 for box, size in cuts)


def scale_image(image: Image.Image, box: Region, divisor: int, size: Size, name: str) -> Image.Image:
    """Crops a box (in pixels before division by `divisor`) and scales it to `size`. name: "lanczos" or "nearest"."""
    options = _options(box, divisor, (image.height, image.width), size, name)
    if options is None:
        return image
    if image.mode == "LA":  # the resizer does not support LA
        return scale_image(image.convert("RGBA"), box, divisor, size, name).convert("LA")
    result = Image.new(image.mode, (size[1], size[0]))
    _resizer().resize_pil(image, result, options)
    return result


def scale_array(pixels: NDArray[Any], box: Region, divisor: int, size: Size, name: str = "lanczos") -> NDArray[Any]:
    """Does the same for an array (H, W, C): uint8 with C = 3, uint16, or int32 with C = 1. The result may be
    read-only."""
    return scale_views(pixels, [(box, size)], divisor, name)[0]


def scale_views(pixels: NDArray[Any], views: Sequence[Cut], divisor: int, name: str = "lanczos") -> list[NDArray[Any]]:
    """Crops several boxes of one array and scales each to its size. Without a size, the whole array is the result.

    The whole array is copied to the resizer, once, which reads pixels outside of the boxes. Copying less saves almost
    nothing.
    """
    height, width, channels = pixels.shape
    kind, source, results = _KINDS.get((pixels.dtype.name, channels)), None, []
    for box, size in views:
        options = size and _options(box, divisor, (height, width), size, name, alpha=channels in (2, 4))
        if options is None or size is None:
            results.append(pixels)
            continue
        source = source or ImageData(width, height, kind, pixels.tobytes())
        result = ImageData(size[1], size[0], kind)
        _resizer().resize(source, result, options)
        results.append(np.frombuffer(result.get_buffer(), pixels.dtype).reshape(*size, channels))
    return results


def _options(
    box: Region, divisor: int, within: Size, size: Size, name: str, *, alpha: bool = False
) -> ResizeOptions | None:
    """Returns the options of the resizer, or None if nothing is to be cropped or scaled."""
    top, left = max(box[0] / divisor, 0.0), max(box[1] / divisor, 0.0)
    # Rounding may have put the far edges slightly outside.
    high, wide = min(box[2] / divisor, within[0] - top), min(box[3] / divisor, within[1] - left)
    if (top, left, high, wide) == (0.0, 0.0, *size) and within == size:
        return None
    return ResizeOptions(_FILTERS[name], use_alpha=alpha, crop_box=CropBox(left, top, wide, high))


def _resizer() -> Resizer:
    """Returns this thread's Resizer. A Resizer keeps working memory and cannot be used by two threads at once."""
    if not hasattr(_of_thread, "resizer"):
        _of_thread.resizer = Resizer()
    resizer: Resizer = _of_thread.resizer
    return resizer
