"""What the settings of a loader say of its batches: their buckets, and how many samples each has."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from datago_gpu.config.settings import Count
from datago_gpu.config.source_views import SourceViews
from datago_gpu.imaging.buckets import MOST_SAMPLES, BucketChoice, samples_within
from datago_gpu.imaging.geometry import Size

__all__ = ["BatchSizes"]

_BATCH_SIZE = 32


class BatchSizes(SourceViews, frozen=True, kw_only=True):
    """The base of LoaderConfig, which describes these settings."""

    batch_size: Annotated[int, Meta(ge=1, le=MOST_SAMPLES)] = _BATCH_SIZE
    batch_pixels: Count | None = None

    def bucket_choice(self) -> BucketChoice:
        """Returns what chooses the bucket of each image: of several views, that of the first."""
        image, edge = self.image_config.of_view(0), max(0, self.source_config.min_short_edge)
        tables = image.bucket_tables() if image.crop_and_resize else []
        needed = self.image_config.sizes_needed(tables) if self.image_config.views else None
        return BucketChoice(tables, upscale=image.upscale, least_edge=edge, needed=needed)

    def samples_of(self, bucket: Size | None) -> int:
        """Returns the number of samples in a full batch of a bucket."""
        return samples_within(self.batch_pixels, bucket) if self.batch_pixels and bucket else self.batch_size

    @property
    def most_samples(self) -> int:
        """The number of samples in the full batch that has the most."""
        return max(map(self.samples_of, self.bucket_choice().sizes)) if self.batch_pixels else self.batch_size

    @property
    def least_samples(self) -> int:
        """The number of samples in the full batch that has the fewest."""
        return min(map(self.samples_of, self.bucket_choice().sizes)) if self.batch_pixels else self.batch_size

    @property
    def most_batch_pixels(self) -> int:
        """The number of pixels in the batch that has the most. Only with `crop_and_resize`."""
        return max(height * width * self.samples_of((height, width)) for height, width in self.bucket_choice().sizes)

    def _pixels_problem(self) -> str | None:
        """Returns why `batch_pixels` cannot be used with these settings, or None."""
        image = self.image_config
        if self.batch_pixels is None:
            return None
        if self.batch_size != _BATCH_SIZE:
            return (f"batch_pixels ({self.batch_pixels}) and batch_size ({self.batch_size}) both say how many samples "
                    "a batch has: leave one of the two out")  # fmt: skip
        if not image.crop_and_resize or image.mixed_buckets:
            given = "mixed_buckets true" if image.crop_and_resize else "crop_and_resize false"
            return (f"batch_pixels counts samples by the bucket of a batch, and with image_config.{given} a batch has "
                    "none: set crop_and_resize to true and mixed_buckets to false, or use batch_size")  # fmt: skip
        return None
