"""Checks each payload before it reaches a decoder: by its header, or with Pillow where the header is not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import Rejected
from datago_gpu.feeder.admitted import Admitted, Shown
from datago_gpu.feeder.bucket_rule import BucketRule
from datago_gpu.feeder.region_choice import FurtherViews, RegionChoice
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.imaging.geometry import Cut, Size, full_region
from datago_gpu.imaging.header import read_header
from datago_gpu.sources.reference import SampleRef, Skipped

if TYPE_CHECKING:
    from datago_gpu.imaging.pixels import ConvertedImage

__all__ = ["Admission", "without_image"]


def without_image(ref: SampleRef, bucket: Size | None = None) -> Admitted:
    """Returns the sample without a payload: the settings ask for parts, but for no image, or the sample is bad."""
    return Admitted(ref, b"", (0, 0), 1, full_region(0, 0), (0, 0), full_region(0, 0), bucket)


class Admission:
    """Decides by the settings of a loader whether payloads can be used. Many threads may call it at once.

    memory: limits the memory that decoding may take; None: no limit.
    """

    def __init__(self, config: LoaderConfig, memory: Allowance | None = None) -> None:
        self._memory = memory
        self._max_pixels = config.decode_config.max_pixels
        self._max_bytes = Limits.of(config).picture
        self._crops, self._buckets = config.image_config.crop_and_resize, BucketRule(config)
        self.by_listing = self._buckets.by_listing
        self._choose_region = RegionChoice(config.image_config.of_view(0), config.seed)
        self._choose_further = FurtherViews(config.image_config, config.seed)
        self._has_further = config.image_config.view_count > 1
        self._own = not config.image_config.image_to_rgb8

    def quick(self, ref: SampleRef, payload: bytes) -> Admitted | Skipped | None:
        """Decides by the header, in microseconds. Returns None where `thorough` must decide."""
        if not payload:
            return Skipped(ref.index, ref.id, ref.where, "empty")
        header = read_header(payload)
        if header.width * header.height > self._max_pixels:
            return self._too_many_pixels(ref, header.height, header.width)
        if not header.plain:
            return None
        try:
            return self._as_it_is(ref, header.tidy(payload), header.upright_size, header.orientation)
        except Rejected as problem:
            return Skipped(ref.index, ref.id, ref.where, problem.reason, problem.detail)

    def pixel_bytes(self, payload: bytes) -> int:
        """Returns the bytes of pixels that `thorough` would return, where they may be large: a picture that keeps
        its own size. Reads the header."""
        if self._crops:
            return 0
        from datago_gpu.imaging.pixels import ppm_bytes

        return ppm_bytes(payload, self._max_pixels)

    def thorough(self, ref: SampleRef, payload: bytes) -> Admitted | Skipped:
        """Decodes the payload with Pillow and returns its pixels, already cut to the bucket. Takes as long as decoding
        does.

        Images that must keep channels other than RGB's are returned as they are: a PPM has no room for those channels.
        """
        from datago_gpu.imaging.pixels import to_ppm  # most streams never need it

        def views(height: int, width: int) -> list[Cut]:
            return [(shown.region, shown.bucket) for shown in self._choose(ref, height, width)]

        try:
            if self._own and (own := self._with_own_channels(ref, payload)):
                return own
            converted = to_ppm(payload, views, self._max_pixels, memory=self._memory, whole=not self._crops)
        except Rejected as problem:
            return Skipped(ref.index, ref.id, ref.where, problem.reason, problem.detail)
        if len(converted.payload) > self._max_bytes:
            detail = f"{len(converted.payload)} bytes of pixels do not fit into half of arena_mb"
            return Skipped(ref.index, ref.id, ref.where, "too-large", detail)
        return self._converted(ref, converted)

    def _converted(self, ref: SampleRef, converted: ConvertedImage) -> Admitted:
        """Returns the sample with pixels, already cut, as its payload."""
        seen = converted.original_size
        shown, *further = self._choose(ref, *seen)
        region, *further_regions = converted.regions
        return Admitted(
            ref,
            converted.payload,
            converted.size,
            1,
            region,
            seen,
            shown.region,
            shown.bucket,
            flipped=shown.flipped,
            further=further,
            further_regions=further_regions,
        )

    def _with_own_channels(self, ref: SampleRef, payload: bytes) -> Admitted | None:
        """Returns None for an image that is RGB with 8 bits anyway. Raises Rejected."""
        from datago_gpu.imaging.own_channels import own_header

        header = own_header(payload, self._max_pixels, self._memory)
        return self._as_it_is(ref, payload, *header) if header else None

    def _as_it_is(self, ref: SampleRef, payload: bytes, size: Size, orientation: int) -> Admitted:
        """Returns the sample with a payload of which the decoder shows the regions. Raises Rejected."""
        bucket = self._buckets.choose(ref, *size)
        region, flipped = self._choose_region(ref, *size, bucket)
        admitted = Admitted(ref, payload, size, orientation, region, size, region, bucket, flipped=flipped)
        if self._has_further:  # most streams have one view
            admitted.further = self._choose_further(ref, *size, bucket)
            admitted.further_regions = [view.region for view in admitted.further]
        return admitted

    def _choose(self, ref: SampleRef, height: int, width: int) -> list[Shown]:
        """Returns what each view shows of an image of this size. Raises Rejected."""
        bucket = self._buckets.choose(ref, height, width)
        region, flipped = self._choose_region(ref, height, width, bucket)
        return [Shown(region, bucket, flipped), *self._choose_further(ref, height, width, bucket)]

    def _too_many_pixels(self, ref: SampleRef, height: int, width: int) -> Skipped:
        detail = f"{height} x {width}, above decode_config.max_pixels ({self._max_pixels})"
        return Skipped(ref.index, ref.id, ref.where, "too-many-pixels", detail)
