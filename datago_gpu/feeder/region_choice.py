"""Chooses which region of a picture is shown, and whether the picture is mirrored, as the settings say."""

from __future__ import annotations

from datago_gpu.config import ImageConfig
from datago_gpu.draws import draws_of
from datago_gpu.feeder.admitted import Shown
from datago_gpu.imaging.crops import random_cover_region, random_resized_region
from datago_gpu.imaging.geometry import Region, Size, cover_region, full_region
from datago_gpu.sources.reference import SampleRef

__all__ = ["FurtherViews", "RegionChoice"]


class RegionChoice:
    """Chooses by the seed, and by the epoch and the id of the sample. Many threads may call it at once.

    image: the settings of the view. view: its number, from 0.
    """

    def __init__(self, image: ImageConfig, seed: int, view: int = 0) -> None:
        self._image, self._seed, self._view = image, seed, view
        self._is_random = image.crop != "centre" or image.flip > 0

    def __call__(self, ref: SampleRef, height: int, width: int, bucket: Size | None) -> tuple[Region, bool]:
        """Returns the region to show of a picture of this size, upright, and whether the region is mirrored.

        bucket: the size that the region is scaled to; None if the whole picture is shown.
        """
        image = self._image
        if not self._is_random:
            return cover_region(height, width, bucket) if bucket else full_region(height, width), False
        draws = draws_of(self._seed, ref.drawn_epoch, ref.id, self._view)
        flipped = draws.random() < image.flip  # drawn first and always, so that neither setting changes the other
        if bucket is None:
            return full_region(height, width), flipped
        if image.crop == "centre":
            return cover_region(height, width, bucket), flipped
        if image.crop == "random":
            return random_cover_region(height, width, bucket, draws), flipped
        shape = bucket[1] / bucket[0]
        aspect = shape * image.crop_aspect[0], shape * image.crop_aspect[1]
        return random_resized_region(height, width, image.crop_scale, aspect, draws), flipped


class FurtherViews:
    """Chooses what the views after the first show. Many threads may call it at once.

    image: the settings of all views.
    """

    def __init__(self, image: ImageConfig, seed: int) -> None:
        self._image = image
        self._regions = [RegionChoice(image.of_view(view), seed, view) for view in range(1, image.view_count)]
        self._buckets: dict[Size, list[Size]] = {}
        """Bucket of the first view -> those of the others."""

    def __call__(self, ref: SampleRef, height: int, width: int, first: Size | None) -> list[Shown]:
        """Returns what the views show of a picture of this size. first: the bucket of the first view."""
        if not self._regions or first is None:
            return []
        if first not in self._buckets:
            views = range(1, self._image.view_count)
            self._buckets[first] = [self._image.view_bucket(view, first) for view in views]
        found = []
        for choose, bucket in zip(self._regions, self._buckets[first], strict=True):
            region, flipped = choose(ref, height, width, bucket)
            found.append(Shown(region, bucket, flipped))
        return found
