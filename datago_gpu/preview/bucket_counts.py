"""Counts which pictures go to which bucket, which ones go to none, and how much of each the crop cuts away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.imaging.geometry import Size
from datago_gpu.plan.row_buckets import TOO_SMALL, row_buckets

__all__ = ["BucketCount", "BucketCounts", "count_buckets"]


@dataclass(frozen=True, slots=True)
class BucketCount:
    """The pictures of one bucket. Shares are of a picture's area."""

    size: Size
    """Height and width."""
    samples: int
    """Samples of a full batch."""
    pictures: int
    cut_mean: float
    """The share that is cut away, on average."""
    cut_p95: float
    """The share that is cut away of the picture at the 95th percentile."""
    enlarged: int
    """Pictures that are enlarged."""

    @property
    def batches(self) -> int:
        """Returns the number of batches of an epoch if one rank loads all pictures, with the last one."""
        return -(-self.pictures // self.samples)

    @property
    def last(self) -> int:
        """Returns the number of samples in the last batch, 0 if that batch is full."""
        return self.pictures % self.samples


@dataclass(frozen=True, slots=True)
class BucketCounts:
    """All buckets, and what goes to none."""

    title: str
    buckets: list[BucketCount]
    """The largest resolution first, of each the widest bucket last; also those without a picture."""
    too_small: int
    unusable: dict[str, int]
    listed: bool
    """Whether the sizes are those that the source lists."""

    @property
    def used(self) -> list[BucketCount]:
        """Returns the buckets that have pictures."""
        return [each for each in self.buckets if each.pictures]

    @property
    def pictures(self) -> int:
        """Returns the number of pictures in all buckets."""
        return sum(each.pictures for each in self.buckets)

    @property
    def cut_mean(self) -> float:
        """Returns the share of its area that a picture loses, on average over all buckets."""
        return sum(each.cut_mean * each.pictures for each in self.buckets) / max(1, self.pictures)

    @property
    def lost(self) -> dict[str, int]:
        """Returns what goes to no bucket: reason -> number of pictures."""
        return ({"too-small": self.too_small} if self.too_small else {}) | self.unusable


Found = Sequence[tuple[LoaderConfig, Sequence[int]]]
"""The settings of each source, and height and width of each of its pictures."""


def count_buckets(
    config: LoaderConfig, title: str, found: Found, unusable: Mapping[str, int], *, listed: bool
) -> BucketCounts:
    """Counts the pictures of each bucket. Raises ConfigError.

    found: several sources are those of a mix, which have the same buckets. unusable: reason -> number of further
    pictures. title: names the source. listed: see `BucketCounts`.
    """
    if not config.image_config.crop_and_resize:
        raise ConfigError("there are no buckets: set image_config.crop_and_resize to true")
    choice = config.bucket_choice()
    sizes = np.concatenate([np.asarray(sides, np.int32).reshape(-1, 2) for _, sides in found])
    numbers = np.concatenate(
        [row_buckets(np.asarray(sides, np.int32).reshape(-1, 2), each.bucket_choice()) for each, sides in found]
    )
    order = numbers.argsort(kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(-1, len(choice.sizes)), side="right")
    buckets = [
        _count(size, config.samples_of(size), sizes[order[begin:end]])
        for size, begin, end in zip(choice.sizes, ends, ends[1:], strict=False)
    ]
    return BucketCounts(title, buckets, int((numbers == TOO_SMALL).sum()), dict(unusable), listed)


def _count(bucket: Size, samples: int, sizes: NDArray[np.int32]) -> BucketCount:
    if not len(sizes):
        return BucketCount(bucket, samples, 0, 0.0, 0.0, 0)
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    scale = np.maximum(bucket[0] / height, bucket[1] / width)
    cut = (1 - bucket[0] * bucket[1] / (scale * scale * height * width)).clip(0, 1)
    return BucketCount(
        bucket, samples, len(sizes), float(cut.mean()), float(np.percentile(cut, 95)), int((scale > 1).sum())
    )
