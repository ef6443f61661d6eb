"""The quick way for colour JPEGs, nearly all of what is loaded: libjpeg-turbo by simplejpeg, three bytes a pixel.

Pillow gives the very same pixels, by the same library, but takes 40 us more of Python for each image, and keeps a
fourth byte for each pixel, which is written, scaled and taken out again. Whatever is unusual is left to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.imaging.geometry import Region, Size
from datago_gpu.imaging.orientation import stored_box, upright_array
from datago_gpu.imaging.scaling import scale_array, shrinkage

try:
    import simplejpeg
except ImportError:  # there is no wheel for this platform: Pillow decodes all, a tenth slower
    simplejpeg = None

__all__ = ["render_jpeg"]

_COLOURS = ("YCbCr", "RGB")


def render_jpeg(
    payload: memoryview, region: Region, orientation: int, target: Size | None, *, draft: bool, max_pixels: int
) -> NDArray[np.uint8] | None:
    """Pixels (H, W, 3) as `pixels.render` gives them, contiguous, maybe read-only. None: Pillow has to look at it.

    That is so for what is no JPEG, gray, CMYK, above `max_pixels`, or damaged in the least. Safe on any thread.
    """
    if simplejpeg is None or bytes(payload[:2]) != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(payload)
        if colours not in _COLOURS or height * width > max_pixels:
            return None
        if target is None:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(payload, "RGB")
            return np.ascontiguousarray(upright_array(pixels, orientation))
        box = stored_box(region, orientation, (height, width))
        size = target if orientation < 5 else (target[1], target[0])
        divisor = shrinkage(box, size) if draft else 1
        least = {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
        pixels = simplejpeg.decode_jpeg(payload, "RGB", **least)
    except MemoryError:
        raise
    except Exception:  # simplejpeg raises ValueError for what libjpeg warns of, and KeyError for 4:4:1
        return None
    scaled: NDArray[Any] = scale_array(pixels, box, divisor, size)
    return np.ascontiguousarray(upright_array(scaled, orientation))
