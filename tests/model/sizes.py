"""Part 2a of the model: the bucket of a picture, the samples of a bucket's batch, and which pictures are too small."""

from __future__ import annotations

from dataclasses import replace

from datago_gpu.config import DataroomSource, LoaderConfig
from tests.model.items import Item

__all__ = ["Bucket", "as_sized", "bucket_of", "leaves_out", "most_places", "places_of"]

Bucket = tuple[int, int] | None


def bucket_of(config: LoaderConfig, item: Item) -> Bucket:
    """What the picture is cut to; None where pictures keep their sizes."""
    buckets = _buckets(config, *item.shape)
    filled = [bucket for bucket in buckets if not _enlarges(bucket, *item.shape)]
    return (filled or buckets[-1:] or [None])[0]


def places_of(config: LoaderConfig, bucket: Bucket) -> int:
    """The samples of a full batch."""
    if config.batch_pixels is None or bucket is None:
        return config.batch_size
    return max(1, config.batch_pixels // (bucket[0] * bucket[1]))


def most_places(config: LoaderConfig) -> int:
    sizes = [size for table in config.image_config.bucket_tables() for size in table.sizes]
    return max(places_of(config, size) for size in sizes) if config.batch_pixels else config.batch_size


def as_sized(config: LoaderConfig, item: Item, *, listed: bool) -> Item:
    """A picture that is too small is skipped for that, if its header can be read. listed: by its size in the listing,
    so before anything else is known."""
    if item.is_lacking or (item.skipped and not listed) or not _is_too_small(config, item):
        return item
    return replace(item, skipped="too-small")


def leaves_out(config: LoaderConfig, item: Item) -> bool:
    """Whether a Dataroom does not even list the picture."""
    assert isinstance(config.source_config, DataroomSource)
    return min(item.shape) < config.source_config.min_short_edge


def _is_too_small(config: LoaderConfig, item: Item) -> bool:
    if min(item.shape) < config.source_config.min_short_edge:
        return True
    buckets = _buckets(config, *item.shape)
    return bool(buckets) and not config.image_config.upscale and all(_enlarges(each, *item.shape) for each in buckets)


def _buckets(config: LoaderConfig, height: int, width: int) -> list[tuple[int, int]]:
    """The bucket of each resolution, the largest first."""
    image = config.image_config
    return [table.nearest(height, width) for table in image.bucket_tables()] if image.crop_and_resize else []


def _enlarges(bucket: tuple[int, int], height: int, width: int) -> bool:
    return max(bucket[0] / height, bucket[1] / width) > 1
