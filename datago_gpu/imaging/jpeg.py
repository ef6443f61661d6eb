"""The fast path for colour JPEGs, the most common images: simplejpeg (libjpeg-turbo), with three bytes per pixel.

Pillow returns the same pixels with the same library. But Pillow spends 40 us more in Python per image, and stores a
fourth byte per pixel that must be written, scaled and removed again. Unusual JPEGs are left to Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datago_gpu.imaging.geometry import Cut
from datago_gpu.imaging.orientation import stored_cut, upright_array
from datago_gpu.imaging.scaling import common_shrinkage, scale_views

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes everything, 10% slower
    simplejpeg = None

__all__ = ["render_jpeg"]

_COLOURS = ("YCbCr", "RGB")


def render_jpeg(
    payload: memoryview, views: Sequence[Cut], orientation: int, *, draft: bool, max_pixels: int
) -> list[NDArray[np.uint8]] | None:
    """Returns the same pixels as `pixels.render_views`, maybe read-only or views. None if Pillow must decode.

    That is the case for other formats and for JPEGs that are gray, CMYK, above `max_pixels` or damaged in any way. Safe
    on any thread.
    """
    if simplejpeg is None or bytes(payload[:2]) != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(payload)
        if colours not in _COLOURS or height * width > max_pixels:
            return None
        stored = [stored_cut(view, orientation, (height, width)) for view in views]
        divisor = common_shrinkage(stored) if draft else 1
        least = {"min_height": -(-height // divisor), "min_width": -(-width // divisor)} if divisor > 1 else {}
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(payload, "RGB", **least)
    except MemoryError:
        raise
    except Exception:  # simplejpeg raises ValueError for libjpeg's warnings, KeyError for 4:4:1
        return None
    return [upright_array(view, orientation) for view in scale_views(pixels, stored, divisor)]
