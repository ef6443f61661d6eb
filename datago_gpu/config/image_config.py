"""Settings: what is made of each image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, structs

from datago_gpu.config.settings import Count, Settings
from datago_gpu.config.view_config import Aspect, Share, Side, ViewConfig, view_records
from datago_gpu.errors import ConfigError
from datago_gpu.imaging.buckets import by_resolution
from datago_gpu.imaging.geometry import BucketTable, ListedBuckets, Size

_DEFAULT_SIZE = 512

__all__ = ["ImageConfig"]

_CROP_SCALE, _CROP_ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
_OF_BUCKETS = (
    *("default_image_size", "downsampling_ratio", "min_aspect_ratio", "max_aspect_ratio"),
    *("resolutions", "buckets"),
)
"""The settings that decide about the buckets of a view."""


class ImageConfig(Settings, frozen=True, kw_only=True):
    """What is made of each image.

    Attributes:
        crop_and_resize: true scales each image to cover the bucket with the nearest aspect ratio, and crops it as
            `crop` says; all images of a batch then form one array. False keeps the sizes of the images: `Batch.image`
            is a list.
        default_image_size: side length of the square bucket, in pixels. All buckets have about the same area.
        resolutions: several values of `default_image_size`, such as [512, 768, 1024]. Each has its own buckets. An
            image goes to the largest resolution whose bucket it fills without being enlarged. None: one resolution.
        buckets: the buckets themselves, as a list of [height, width], in place of those that `default_image_size` and
            the aspect ratios make. Sizes whose areas differ by less than a third form one resolution. On the command
            line: `--bucket-sizes`.
        upscale: true enlarges an image that fills no bucket to its bucket of the smallest resolution. False skips the
            image: `too-small` in `stats().skipped`. No image is enlarged then.
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
        views: several views of each image, from one download and one decode: a list of dicts, each with some of
            `default_image_size`, `downsampling_ratio`, `min_aspect_ratio`, `max_aspect_ratio`, `crop`, `crop_scale`,
            `crop_aspect` and `flip`. What a view leaves out is as in image_config. `Batch.views` then has one array for
            each view, and `Batch.image` is the first of them, which masks and additional images follow. None: one view.
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
    default_image_size: Side = _DEFAULT_SIZE
    resolutions: tuple[Side, ...] | None = None
    buckets: tuple[tuple[Side, Side], ...] | None = None
    upscale: bool = True
    downsampling_ratio: Count = 32
    min_aspect_ratio: Aspect = 0.5
    max_aspect_ratio: Aspect = 2.0
    crop: Literal["centre", "random", "random_resized"] = "centre"
    crop_scale: tuple[Share, Share] = _CROP_SCALE
    crop_aspect: tuple[Aspect, Aspect] = _CROP_ASPECT
    flip: Annotated[float, Meta(ge=0, le=1)] = 0.0
    views: tuple[ViewConfig, ...] | None = None
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

    def _check(self, name: str, wanted: Any) -> None:
        if name == "views":
            structs.force_setattr(self, name, view_records(self.views))
        else:
            super()._check(name, wanted)

    def _problem(self) -> str | None:
        if self.min_aspect_ratio > self.max_aspect_ratio:
            return (f"image_config.min_aspect_ratio ({self.min_aspect_ratio}) is above "
                    f"max_aspect_ratio ({self.max_aspect_ratio}): swap them")  # fmt: skip
        problem = self._bucket_problem() or self._crop_problem() or self._form_problem()
        return problem or self._normalisation_problem() or self._mask_problem() or self._views_problem()

    def _bucket_problem(self) -> str | None:
        """Of the buckets."""
        if problem := self._list_problem():
            return problem
        given = self.resolutions or self.buckets or not self.upscale
        if given and not self.crop_and_resize:
            name = "resolutions" if self.resolutions else "buckets" if self.buckets else "upscale false"
            return f"image_config.{name} needs buckets: set crop_and_resize to true"
        if self.crop_and_resize:
            try:
                self.bucket_tables()
            except ValueError as problem:
                return f"image_config: {problem}; widen the aspect range or lower downsampling_ratio"
        return None

    def _crop_problem(self) -> str | None:
        if self.crop != "centre" and not self.crop_and_resize:
            return f"image_config.crop {self.crop!r} needs crop_and_resize: set crop_and_resize to true"
        for name, (least, most) in (("crop_scale", self.crop_scale), ("crop_aspect", self.crop_aspect)):
            if least > most:
                return f"image_config.{name} must be the least and the largest value, got {[least, most]}: swap them"
        if self.crop != "random_resized" and (self.crop_scale, self.crop_aspect) != (_CROP_SCALE, _CROP_ASPECT):
            return f"image_config.crop_scale and crop_aspect need crop 'random_resized', got {self.crop!r}"
        if self.crop == "random_resized" and not self.upscale:
            return ("image_config.crop 'random_resized' draws regions that have to be enlarged, which upscale false "
                    "forbids: set crop to 'centre' or 'random', or upscale to true")  # fmt: skip
        return None

    def _list_problem(self) -> str | None:
        """Of `resolutions` and `buckets`."""
        given: list[tuple[str, tuple[object, ...] | None]]
        given = [("resolutions", self.resolutions), ("buckets", self.buckets)]
        for name, listed in given:
            if listed is None:
                continue
            if not listed:
                return f"image_config.{name} is empty: name at least one, or leave it out"
            if self.default_image_size != _DEFAULT_SIZE:
                return (f"image_config.{name} replaces default_image_size, but default_image_size is set to "
                        f"{self.default_image_size}: leave one of the two out")  # fmt: skip
            twice = next((each for each in listed if listed.count(each) > 1), None)
            if twice is not None:
                shown = list(twice) if isinstance(twice, tuple) else twice
                return f"image_config.{name}: {shown} occurs twice"
        if self.resolutions and self.buckets:
            return "image_config.resolutions and buckets both say what the buckets are: leave one of the two out"
        for size in self.buckets or ():
            if any(side % self.downsampling_ratio for side in size):
                common = gcd(*(side for each in self.buckets or () for side in each))
                return (f"image_config.buckets: the sides of {list(size)} are not multiples of downsampling_ratio "
                        f"({self.downsampling_ratio}): set downsampling_ratio to {common}, or to a divisor of it, or "
                        "change the size")  # fmt: skip
        return None

    def _views_problem(self) -> str | None:
        """Of several views."""
        if self.views is None:
            return None
        for name, wanted in (("crop_and_resize", True), ("image_to_rgb8", True), ("pre_encode_images", False),
                             ("mixed_buckets", False)):  # fmt: skip
            if getattr(self, name) != wanted:
                return (f"image_config.views makes a dense array of each view, which needs {name} "
                        f"{str(wanted).lower()}: set it so, or leave views out")  # fmt: skip
        for number in range(len(self.views)):
            try:
                self.of_view(number)
            except ConfigError as problem:
                return str(problem).replace("image_config", f"image_config.views[{number}]", 1)
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

    def of_view(self, number: int) -> ImageConfig:
        """Returns the settings of one view, counted from 0: those of a run with this view alone. Without `views` there
        is one view, with the settings as they are."""
        return self if self.views is None else _view(self, number)

    @property
    def view_count(self) -> int:
        """Returns the number of views of each image."""
        return 1 if self.views is None else len(self.views)

    def view_bucket(self, number: int, bucket: Size) -> Size:
        """Returns the bucket of a view for images whose first view has this bucket: that of the nearest aspect ratio
        among the view's own buckets; of several resolutions, the largest."""
        own, first = self.of_view(number), self.of_view(0)
        same = all(getattr(own, name) == getattr(first, name) for name in _OF_BUCKETS)
        return bucket if same else own.bucket_tables()[0].nearest(*bucket)

    def sizes_needed(self, tables: Sequence[BucketTable]) -> dict[Size, Size]:
        """Returns bucket of the first view -> height and width from which on an image fills the buckets of all views.

        tables: the buckets of the first view.
        """
        needed = {}
        for bucket in {size: None for table in tables for size in table.sizes}:
            heights, widths = zip(*(self.view_bucket(number, bucket) for number in range(self.view_count)), strict=True)
            needed[bucket] = max(heights), max(widths)
        return needed

    def bucket_tables(self) -> list[BucketTable]:
        """The buckets of each resolution, the largest resolution first. Raises ValueError where there are none."""
        if self.buckets:
            return [ListedBuckets(sizes) for sizes in by_resolution(self.buckets)]
        sizes = sorted(self.resolutions or [self.default_image_size], reverse=True)
        ratio, aspects = self.downsampling_ratio, (self.min_aspect_ratio, self.max_aspect_ratio)
        return [_table(size, ratio, *aspects) for size in sizes]


@lru_cache(256)
def _view(image: ImageConfig, number: int) -> ImageConfig:
    """Returns the settings of a view. Cached, because several parts of a run ask for them, for each bucket."""
    given = image.views[number].given if image.views else {}
    if given.get("crop", image.crop) != "random_resized":  # what only this crop uses may be set for other views
        given = {"crop_scale": _CROP_SCALE, "crop_aspect": _CROP_ASPECT} | given
    if "default_image_size" in given:
        given = {"resolutions": None, "buckets": None} | given
    return structs.replace(image, views=None, **given)  # which checks the settings


@lru_cache(64)
def _table(size: int, ratio: int, min_aspect: float, max_aspect: float) -> BucketTable:
    """Tables are asked for by several parts of a run; that of small steps takes milliseconds to make."""
    return BucketTable(size, ratio, min_aspect, max_aspect)
