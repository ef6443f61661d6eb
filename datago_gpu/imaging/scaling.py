"""Crops and scales pixels: with cykooz-resizer where it is installed, else with Pillow. Safe on any thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from datago_gpu.imaging.geometry import Cut, Region, Size

try:
    from datago_gpu.imaging.simd_resize import NAME, ArrayResizer, resize_image
except ImportError:  # no wheel for this platform
    from datago_gpu.imaging.plain_resize import NAME, ArrayResizer, resize_image  # type: ignore[assignment]

__all__ = ["NAME", "common_shrinkage", "scale_array", "scale_image", "scale_views", "shrinkage"]


def shrinkage(box: Region, size: Size) -> int:
    """Returns by how much (8, 4, 2 or 1) a JPEG may be reduced when decoded, so that `box` still covers `size`."""
    shrink = min(box[2] / size[0], box[3] / size[1])
    return next((divisor for divisor in (8, 4, 2) if shrink >= divisor), 1)


def common_shrinkage(cuts: Iterable[Cut]) -> int:
    """Returns the same for several boxes and sizes of one JPEG. A JPEG of which a box is not scaled keeps its size."""
    return min(shrinkage(box, size) if size else 1 for box, size in cuts)


def scale_image(image: Image.Image, box: Region, divisor: int, size: Size, name: str) -> Image.Image:
    """Crops a box (in pixels before division by `divisor`) and scales it to `size`. name: "lanczos" or "nearest"."""
    reduced = _reduced(box, divisor, (image.height, image.width), size)
    return image if reduced is None else resize_image(image, reduced, size, name)


def scale_array(pixels: NDArray[Any], box: Region, divisor: int, size: Size, name: str = "lanczos") -> NDArray[Any]:
    """Does the same for an array (H, W, C): uint8 with C = 3, uint16, or int32 with C = 1. The result may be
    read-only."""
    return scale_views(pixels, [(box, size)], divisor, name)[0]


def scale_views(pixels: NDArray[Any], views: Sequence[Cut], divisor: int, name: str = "lanczos") -> list[NDArray[Any]]:
    """Crops several boxes of one array and scales each to its size. Without a size, the whole array is the result."""
    resizer, results = None, []
    for box, size in views:
        reduced = size and _reduced(box, divisor, (pixels.shape[0], pixels.shape[1]), size)
        if reduced is None or size is None:
            results.append(pixels)
            continue
        resizer = resizer or ArrayResizer(pixels)
        results.append(resizer.resize(reduced, size, name))
    return results


def _reduced(box: Region, divisor: int, within: Size, size: Size) -> Region | None:
    """Returns the box in pixels after division, or None if nothing is to be cropped or scaled."""
    top, left = max(box[0] / divisor, 0.0), max(box[1] / divisor, 0.0)
    # Rounding may have put the far edges slightly outside.
    high, wide = min(box[2] / divisor, within[0] - top), min(box[3] / divisor, within[1] - left)
    if (top, left, high, wide) == (0.0, 0.0, *size) and within == size:
        return None
    return top, left, high, wide
