"""Settings: what is made of each image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from datago_gpu.config.base import Count, Settings
from datago_gpu.imaging.geometry import BucketTable

Aspect = Annotated[float, Meta(ge=0.001, le=1000)]

__all__ = ["ImageConfig"]


class ImageConfig(Settings, frozen=True, kw_only=True):
    """What is made of each image.

    Attributes:
        crop_and_resize: true scales every image to cover the aspect-ratio bucket nearest to it and cuts its centre, so
            that batches are dense. False leaves sizes alone: `Batch.image` is then a list.
        default_image_size: pixels; buckets hold about its square.
        downsampling_ratio: pixels; sides of buckets are multiples of it.
        min_aspect_ratio: width / height of the narrowest bucket.
        max_aspect_ratio: width / height of the widest bucket.
        layout: "HWC" or "CHW", the order of axes of one image.
        dtype: "uint8" (0 to 255), or "float16", "float32": values are then in [0, 1], before `mean` and `std`.
        mean: three numbers (R, G, B) in units of [0, 1], as torchvision has them: x becomes (x - mean) / std. Needs a
            floating dtype.
        std: three numbers (R, G, B) in units of [0, 1], by which x - mean is divided. Needs a floating dtype.
        mask_interpolation: "nearest" keeps the values of masks (labels); "lanczos" scales them as datago does.
        mask_dtype: of masks with "nearest". "auto" keeps every label: uint8, but uint16 for gray of 16 bits and int32
            for gray of 32; a batch has the widest dtype that one of its masks needs. "int32": always int32, for a dtype
            that never changes. "uint8": always uint8; 16 bits are scaled to 8, as brightness.
        image_to_rgb8: true makes all images RGB with 8 bits a channel. False leaves them their own channels and depth:
            (H, W, C) with 1 (gray), 2, 3 or 4 (with alpha), uint8 or uint16; `Batch.image` is then a list. Those that
            are not RGB are decoded on the CPU. Masks keep theirs as well where `mask_interpolation` is "lanczos".
        mixed_buckets: true fills batches in the source's order, whatever the buckets of the images: the first comes
            sooner. `Batch.image` is then a list, and `bucket` None where they differ.
        pre_encode_images: true gives each image as bytes, encoded again: `Batch.image` is a list of N bytes, as are
            masks and further images. nvJPEG encodes on a GPU, Pillow on the CPU.
        encode_format: "png" or "jpeg", of encoded images. Masks are PNG in any case.
        jpeg_quality: 1 to 100.
    """

    place: ClassVar[str] = "image_config."
    crop_and_resize: bool = False
    default_image_size: Annotated[int, Meta(ge=1, le=65_535)] = 512
    downsampling_ratio: Count = 32
    min_aspect_ratio: Aspect = 0.5
    max_aspect_ratio: Aspect = 2.0
    layout: Literal["HWC", "CHW"] = "HWC"
    dtype: Literal["uint8", "float16", "float32"] = "uint8"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    mask_interpolation: Literal["nearest", "lanczos"] = "nearest"
    mask_dtype: Literal["auto", "uint8", "int32"] = "auto"
    image_to_rgb8: bool = True
    mixed_buckets: bool = False
    pre_encode_images: bool = False
    encode_format: Literal["png", "jpeg"] = "png"
    jpeg_quality: Annotated[int, Meta(ge=1, le=100)] = 92

    def _problem(self) -> str | None:
        if self.min_aspect_ratio > self.max_aspect_ratio:
            return (f"image_config.min_aspect_ratio ({self.min_aspect_ratio}) is above "
                    f"max_aspect_ratio ({self.max_aspect_ratio}): swap them")  # fmt: skip
        if self.crop_and_resize:
            try:
                self.buckets()
            except ValueError as problem:
                return f"image_config: {problem}; widen the aspect range or lower downsampling_ratio"
        return self._form_problem() or self._normalisation_problem() or self._mask_problem()

    def _form_problem(self) -> str | None:
        """Of images that are not arrays of one form."""
        if (self.layout, self.dtype) == ("HWC", "uint8") or (self.image_to_rgb8 and not self.pre_encode_images):
            return None
        cause = "pre_encode_images encodes" if self.pre_encode_images else "image_to_rgb8 false keeps"
        return (f"image_config.{cause} images as they are stored: it goes with layout 'HWC' and dtype 'uint8', "
                f"got {self.layout!r} and {self.dtype!r}")  # fmt: skip

    def _normalisation_problem(self) -> str | None:
        if self.dtype == "uint8" and (self.mean or self.std):
            return "image_config.mean and std need dtype 'float16' or 'float32', got 'uint8'"
        if self.mean and not all(-1 <= value <= 1 for value in self.mean):
            return f"image_config.mean is in units of [0, 1], got {self.mean}: divide by 255"
        if self.std and not all(0 < value <= 1 for value in self.std):
            return f"image_config.std is in units of [0, 1] and above 0, got {self.std}"
        return None

    def _mask_problem(self) -> str | None:
        if self.mask_dtype != "int32":
            return None
        if self.mask_interpolation != "nearest":
            return ("image_config.mask_dtype 'int32' is for labels, which mask_interpolation "
                    f"{self.mask_interpolation!r} would blend: set it to 'nearest'")  # fmt: skip
        if self.pre_encode_images:
            return "image_config.mask_dtype 'int32' does not go with pre_encode_images: a PNG holds 16 bits at the most"
        return None

    def buckets(self) -> BucketTable:
        """The table of bucket sizes. Raises ValueError where there is none."""
        return BucketTable(
            self.default_image_size, self.downsampling_ratio, self.min_aspect_ratio, self.max_aspect_ratio
        )
