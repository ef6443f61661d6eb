"""Aspect-ratio buckets and crop regions: pure arithmetic, no pixels.

The bucket table is datago's (github.com/Photoroom/datago, `build_image_size_list` and
`get_closest_aspect_ratio`), so that a model trained with one loader sees the same sizes with the other.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable

__all__ = [
    "BucketTable",
    "Cut",
    "ListedBuckets",
    "Region",
    "Size",
    "bucket_sizes",
    "cover_region",
    "full_region",
    "rois_of",
]

Size = tuple[int, int]
"""(height, width) in pixels."""

Region = tuple[float, float, float, float]
"""(top, left, height, width) in pixels."""

Cut = tuple[Region, Size | None]
"""The region to show of an image as displayed, and the size to scale it to (None: not scaled)."""


def bucket_sizes(size: int, ratio: int, min_aspect: float, max_aspect: float) -> list[tuple[int, int]]:
    """Returns all (height, width) of about `size` x `size` pixels whose sides are multiples of `ratio`, widest last.

    With p = size // ratio patches a side: for every patch width from ceil(p*sqrt(min_aspect)) to
    floor(p*sqrt(max_aspect)) the height is floor(p*p / width), and likewise for every patch height. Of the sizes
    that share an aspect ratio, rounded to three decimals, the later one is kept. Aspect is width / height.
    """
    patch = size // ratio
    area = float(patch * patch)
    wides = range(math.ceil(math.sqrt(area * min_aspect)), math.floor(math.sqrt(area * max_aspect)) + 1)
    highs = range(math.ceil(math.sqrt(area / max_aspect)), math.floor(math.sqrt(area / min_aspect)) + 1)
    pairs = [(math.floor(area / wide), wide) for wide in wides if wide]
    pairs += [(high, math.floor(area / high)) for high in highs if high]
    by_aspect = {f"{wide / high:.3f}": (high * ratio, wide * ratio) for high, wide in pairs if high and wide}
    return [by_aspect[aspect] for aspect in sorted(by_aspect, key=float)]


class BucketTable:
    """Finds the bucket of an image. Raises ValueError if the range of aspect ratios contains no bucket.

    As in datago, the buckets' aspect ratios are rounded to three decimals before they are compared.
    """

    def __init__(self, size: int, ratio: int, min_aspect: float, max_aspect: float) -> None:
        self.sizes = bucket_sizes(size, ratio, min_aspect, max_aspect)
        """(height, width) of each bucket, widest last."""
        if not self.sizes:
            raise ValueError(
                f"no bucket of {size} px in steps of {ratio} has an aspect ratio in [{min_aspect}, {max_aspect}]"
            )
        self.aspects = _aspects_of(self.sizes)
        """Width / height of each bucket, ascending."""

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) of the bucket with the nearest aspect ratio; in a tie, the wider bucket."""
        aspect = width / height
        after = bisect_left(self.aspects, aspect)
        if after == 0:
            return self.sizes[0]
        if after == len(self.sizes):
            return self.sizes[-1]
        narrower = aspect - self.aspects[after - 1] < self.aspects[after] - aspect
        return self.sizes[after - 1 if narrower else after]


class ListedBuckets(BucketTable):
    """Finds the bucket of an image among sizes, (height, width), of which no two have the same aspect ratio."""

    def __init__(self, sizes: Iterable[Size]) -> None:
        self.sizes = sorted(sizes, key=lambda size: size[1] / size[0])
        self.aspects = _aspects_of(self.sizes)


def _aspects_of(sizes: Iterable[Size]) -> list[float]:
    return [round(width / height, 3) for height, width in sizes]


def cover_region(height: int, width: int, target: Size) -> Region:
    """Returns the centred region (top, left, height, width) of an image that fills `target` (height, width) if scaled.

    The region is in pixels of the image, not rounded, and never outside the image.
    """
    scale = max(target[0] / height, target[1] / width)
    high, wide = min(target[0] / scale, float(height)), min(target[1] / scale, float(width))
    return (height - high) / 2, (width - wide) / 2, high, wide


def full_region(height: int, width: int) -> Region:
    """Returns the region that covers the whole image."""
    return 0.0, 0.0, float(height), float(width)


def rois_of(regions: Iterable[Region], sizes: Iterable[Size], targets: Iterable[Size]) -> array[float]:
    """Returns six float32 numbers for each image, as DALI takes them: top, left, bottom and right of the region, and
    the height and width that the region is scaled to.

    sizes: the sizes of the images. The far edges never lie outside, although rounding may have put them there.
    """
    rois = array("f")
    for (top, left, height, width), (high, wide), target in zip(regions, sizes, targets, strict=True):
        rois.extend((top, left, min(top + height, high), min(left + width, wide), *target))
    return rois
