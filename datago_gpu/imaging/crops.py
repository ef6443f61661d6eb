"""Draws the region of a picture that is shown. Pure arithmetic, no pixels.

The random resized crop is that of torchvision (`RandomResizedCrop.get_params`): the same distribution of areas, aspect
ratios and places, and the same fallback. Only the generator of the random numbers is another.
"""

from __future__ import annotations

import math

from datago_gpu.draws import Draws
from datago_gpu.imaging.geometry import Region, Size, cover_region

__all__ = ["random_cover_region", "random_resized_region"]

_TRIES = 10


def random_cover_region(height: int, width: int, target: Size, draws: Draws) -> Region:
    """Returns a region that fills `target` if scaled, as large as possible, at a random place. Not rounded."""
    _, _, high, wide = cover_region(height, width, target)
    return draws.random() * (height - high), draws.random() * (width - wide), high, wide


def random_resized_region(
    height: int, width: int, scale: tuple[float, float], aspect: tuple[float, float], draws: Draws
) -> Region:
    """Returns a region of random area, aspect ratio and place, in whole pixels.

    scale: the least and the largest share of the picture's area. aspect: the least and the largest width / height; its
    logarithm is drawn. If ten tries give no region that fits, the region is the largest centred one whose aspect ratio
    lies within `aspect`.
    """
    area, lowest, highest = height * width, math.log(aspect[0]), math.log(aspect[1])
    for _ in range(_TRIES):
        wanted = area * (scale[0] + draws.random() * (scale[1] - scale[0]))
        ratio = math.exp(lowest + draws.random() * (highest - lowest))
        high, wide = round(math.sqrt(wanted / ratio)), round(math.sqrt(wanted * ratio))
        if 0 < high <= height and 0 < wide <= width:
            top, left = int(draws.random() * (height - high + 1)), int(draws.random() * (width - wide + 1))
            return float(top), float(left), float(high), float(wide)
    return _central_region(height, width, aspect)


def _central_region(height: int, width: int, aspect: tuple[float, float]) -> Region:
    high, wide = height, width
    if width / height < aspect[0]:
        high = max(1, round(width / aspect[0]))
    elif width / height > aspect[1]:
        wide = max(1, round(height * aspect[1]))
    return float((height - high) // 2), float((width - wide) // 2), float(high), float(wide)
