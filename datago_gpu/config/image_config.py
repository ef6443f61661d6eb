"""Settings: what is made of each image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from datago_gpu.config.settings import Count, Settings
from datago_gpu.imaging.geometry import BucketTable

Aspect = Annotated[float, Meta(ge=0.001, le=1000)]
Share = Annotated[float, Meta(gt=0, le=1)]

__all__ = ["ImageConfig"]


class ImageConfig(Settings, frozen=True, kw_only=True):
    """What is made of each image.

    Attributes:
        crop_and_resize: true scales each image to cover the bucket with the nearest aspect ratio, and crops it as
            `crop` says; all images of a batch then form one array. False keeps the sizes of the images: `Batch.image`
            is a list.
        default_image_size: side length of the square bucket, in pixels. All buckets have about the same area.
        downsampling_ratio: the sides of all buckets are multiples of this number of pixels.
        min_aspect_ratio: width / height of the narrowest bucket.
        max_aspect_ratio: width / height of the widest bucket.
        crop: which region of an image is shown. "centre": the largest that has the bucket's aspect ratio, at the
            centre. "random": one of that size, at a random place. "random_resized": one of random area, aspect ratio
            and place, as in torchvision's RandomResizedCrop. Masks and additional images are cut from the same region.
        crop_scale: with crop "random_resized", the least and the largest share of the image's area.
        crop_aspect: with crop "random_resized", the least and the largest aspect ratio (width / height) of the region,
            relative to the bucket's: 1 is the bucket's own, and other regions are stretched.
        flip: probability with which an image is mirrored left to right, 0 to 1, with its masks and additional images.
        layout: order of the axes of an image: "HWC" or "CHW".
        dtype: "uint8" (0 to 255), or "float16", "bfloat16" or "float32" ([0, 1] before `mean` and `std` are applied).
            numpy has no bfloat16: on the CPU the dtype is that of ml_dtypes, as in jax.
        mean: three numbers (R, G, B) in units of [0, 1], as in torchvision: x becomes (x - mean) / std. Needs a
            floating-point `dtype`.
        std: three numbers (R, G, B) in units of [0, 1], by which x - mean is divided. Needs a floating-point `dtype`.
        mask_interpolation: "nearest" keeps the values of masks (labels). "lanczos" interpolates, as datago does.
        mask_dtype: dtype of masks with "nearest". "auto" keeps every label: uint8, uint16 for 16-bit gray, int32 for
            32-bit gray; a batch has the widest dtype that one of its masks needs. "int32": always int32. "uint8":
            always uint8; 16-bit gray is scaled to 8 bits, as brightness.
        image_to_rgb8: true converts all images to RGB with 8 bits per channel. False keeps their own channels and bit
            depth: (H, W, C) with C = 1 (gray), 2, 3 or 4 (with alpha), uint8 or uint16; `Batch.image` is then a list.
            Images other than RGB are then decoded on the CPU. Masks keep their channels as well if `mask_interpolation`
            is "lanczos".
        mixed_buckets: true fills batches in the source's order, with images of different buckets: the first batch
            arrives sooner. `Batch.image` is then a list, and `Batch.bucket` is None if sizes differ.
        pre_encode_images: true encodes images again after cropping: `Batch.image` is a list of N bytes, and so are
            masks and additional images. Images are encoded with nvJPEG on a GPU and with Pillow on the CPU.
        encode_format: format of images that are encoded again: "png" or "jpeg". Masks are always PNG.
        jpeg_quality: quality of JPEGs that are encoded again, 1 to 100.
    """

    place: ClassVar[str] = "image_config."
    crop_and_resize: bool = False
    default_image_size: Annotated[int, Meta(ge=1, le=65_535)] = 512
    downsampling_ratio: Count = 32
    min_aspect_ratio: Aspect = 0.5
    max_aspect_ratio: Aspect = 2.0
    crop: Literal["centre", "random", "random_resized"] = "centre"
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    crop_aspect: tuple[Aspect, Aspect] = (3 / 4, 4 / 3)
    flip: Annotated[float, Meta(ge=0, le=1)] = 0.0
    layout: Literal["HWC", "CHW"] = "HWC"
    dtype: Literal["uint8", "float16", "bfloat16", "float32"] = "uint8"
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
        return self._crop_problem() or self._form_problem() or self._normalisation_problem() or self._mask_problem()

    def _crop_problem(self) -> str | None:
        if self.crop != "centre" and not self.crop_and_resize:
            return f"image_config.crop {self.crop!r} needs crop_and_resize: set crop_and_resize to true"
        for name, (least, most) in (("crop_scale", self.crop_scale), ("crop_aspect", self.crop_aspect)):
            if least > most:
                return f"image_config.{name} must be the least and the largest value, got {[least, most]}: swap them"
        if self.crop != "random_resized" and (self.crop_scale, self.crop_aspect) != ((0.08, 1.0), (3 / 4, 4 / 3)):
            return f"image_config.crop_scale and crop_aspect need crop 'random_resized', got {self.crop!r}"
        return None

    def _form_problem(self) -> str | None:
        """Of images that are not arrays of one form."""
        if (self.layout, self.dtype) == ("HWC", "uint8") or (self.image_to_rgb8 and not self.pre_encode_images):
            return None
        cause = "pre_encode_images encodes" if self.pre_encode_images else "image_to_rgb8 false keeps"
        return (f"image_config.{cause} images as they are stored: set layout to 'HWC' and dtype to 'uint8', "
                f"got {self.layout!r} and {self.dtype!r}")  # fmt: skip

    def _normalisation_problem(self) -> str | None:
        if self.dtype == "uint8" and (self.mean or self.std):
            return "image_config.mean and std need dtype 'float16', 'bfloat16' or 'float32', got 'uint8'"
        if self.mean and not all(-1 <= value <= 1 for value in self.mean):
            return f"image_config.mean must be in units of [0, 1], got {self.mean}: divide by 255"
        if self.std and not all(0 < value <= 1 for value in self.std):
            return f"image_config.std must be above 0, in units of [0, 1], got {self.std}"
        return None

    def _mask_problem(self) -> str | None:
        if self.mask_dtype != "int32":
            return None
        if self.mask_interpolation != "nearest":
            return ("image_config.mask_dtype 'int32' is for labels, which mask_interpolation "
                    f"{self.mask_interpolation!r} would blend: set mask_interpolation to 'nearest'")  # fmt: skip
        if self.pre_encode_images:
            return "image_config.mask_dtype 'int32' cannot be used with pre_encode_images: a PNG holds at most 16 bits"
        return None

    def buckets(self) -> BucketTable:
        """The table of bucket sizes. Raises ValueError where there is none."""
        return BucketTable(
            self.default_image_size, self.downsampling_ratio, self.min_aspect_ratio, self.max_aspect_ratio
        )
