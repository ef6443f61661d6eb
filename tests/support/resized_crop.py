"""torchvision's RandomResizedCrop, as its documentation and source describe it, with any source of random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["resized_crop"]

Region = tuple[int, int, int, int]
"""(top, left, height, width)"""


def resized_crop(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    uniform: Callable[[float, float], float],
    below: Callable[[int], int],
) -> Region:
    """uniform: a number between two others. below: a whole number from 0, below another."""
    for _ in range(10):
        target_area = height * width * uniform(*scale)
        aspect_ratio = math.exp(uniform(math.log(ratio[0]), math.log(ratio[1])))
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            return below(height - h + 1), below(width - w + 1), h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        h, w = round(width / min(ratio)), width
    elif in_ratio > max(ratio):
        h, w = height, round(height * max(ratio))
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w
