"""Renders one region of one encoded image as upright RGB pixels, with Pillow (simplejpeg for most JPEGs) and
scaling.py.

The Pillow back end uses this module for every image. The feeder uses `to_ppm` for payloads that DALI cannot decode, or
would render differently from our specification. This module knows nothing about batches, threads or DALI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from datago_gpu.errors import Rejected
from datago_gpu.imaging.allowance import Allowance, reserve
from datago_gpu.imaging.atlas import stack_views
from datago_gpu.imaging.costs import decoding_bytes
from datago_gpu.imaging.deep import is_deep, label_numbers
from datago_gpu.imaging.formats import exif_orientation, open_image
from datago_gpu.imaging.geometry import Cut, Region, Size, full_region
from datago_gpu.imaging.jpeg import render_jpeg
from datago_gpu.imaging.labels import pack_labels
from datago_gpu.imaging.levels import mask_levels, picture_levels
from datago_gpu.imaging.modes import to_own_mode
from datago_gpu.imaging.orientation import stored_cut, swap_size, upright_array, upright_image
from datago_gpu.imaging.scaling import common_shrinkage, scale_array, scale_image

__all__ = [
    "ConvertedImage",
    "Cut",
    "as_ppm",
    "ppm_bytes",
    "render",
    "render_array",
    "render_opened",
    "render_views",
    "to_ppm",
    "translate_errors",
]

Views = Callable[[int, int], Sequence[Cut]]
"""(height, width) of an image as displayed -> what each view shows of it."""


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """An image converted to a payload for the decoders, and the region that it shows."""

    payload: bytes
    """A binary PPM (upright, RGB, 8 bits), or the numbers of a deep mask (see labels.py)."""
    size: tuple[int, int]
    """Height and width of the image in the payload."""
    original_size: tuple[int, int]
    """Height and width of the whole image as displayed."""
    crop: Region
    """The region of the whole image that the payload shows; of several views, the first one's."""
    regions: list[Region]
    """For each view, its region of the image in the payload."""


def ppm_bytes(payload: bytes, max_pixels: int) -> int:
    """Returns the number of bytes of `to_ppm` for a whole image, from its header; 0 if it cannot be decoded."""
    try:
        with translate_errors():
            image = open_image(payload, max_pixels)
            return 3 * image.height * image.width
    except Rejected:
        return 0


def to_ppm(
    payload: bytes,
    views: Views,
    max_pixels: int,
    *,
    mask: str = "",
    deep: bool = False,
    memory: Allowance | None = None,
    whole: bool | None = None,
) -> ConvertedImage:
    """Decodes any image that Pillow supports to a PPM that holds all views of it: see `stack_views`. Transparent pixels
    become mid-gray.

    max_pixels: images with more pixels, according to the header, are not decoded.
    mask: "nearest" or "lanczos" for a mask, which becomes gray. A mask has one view.
    deep: a gray mask of more than 8 bits keeps its numbers, and is scaled with "nearest".
    memory: the memory limit for decoding; None: no limit.
    whole: whether the image keeps its size. None: as `views` says, which must then accept the size as stored, too.
    Raises Rejected. Safe on any thread.
    """
    with translate_errors():
        image = open_image(payload, max_pixels)
        whole = views(image.height, image.width)[0][1] is None if whole is None else whole
        with reserve(memory, decoding_bytes(payload, image.height, image.width, whole=whole)):
            converted = _convert(image, views, mask, deep=deep)
            del image  # frees the pixels
        return converted


def _convert(image: ImageFile.ImageFile, views: Views, mask: str, *, deep: bool) -> ConvertedImage:
    # Pixels before EXIF: if Pillow fails within getexif(), for example on a PNG, the next load() returns partial data.
    numbers = label_numbers(image) if deep and is_deep(image) else None
    if numbers is not None:
        return _convert_labels(numbers, exif_orientation(image), views)
    picture = mask_levels(image) if mask else picture_levels(image)
    orientation = exif_orientation(image)
    size = swap_size((picture.height, picture.width), orientation)
    cuts = views(*size)
    shown, regions = stack_views([_cut(picture, cut, orientation, mask or "lanczos") for cut in cuts])
    return ConvertedImage(as_ppm(shown), (shown.height, shown.width), size, cuts[0][0], regions)


def _cut(picture: Image.Image, cut: Cut, orientation: int, name: str) -> Image.Image:
    """Crops, scales and turns a picture as stored. name: of the filter."""
    box, size = stored_cut(cut, orientation, (picture.height, picture.width))
    if size is not None:
        picture = scale_image(picture, box, 1, size, name)
    return upright_image(picture, orientation)


def _convert_labels(numbers: NDArray[Any], orientation: int, views: Views) -> ConvertedImage:
    """Converts a deep mask, which has one view. numbers: (H, W) as stored."""
    stored = (numbers.shape[0], numbers.shape[1])
    original_size = swap_size(stored, orientation)
    cut = views(*original_size)[0]
    box, size = stored_cut(cut, orientation, stored)
    shown = numbers[:, :, None]
    if size is not None:
        shown = scale_array(shown, box, 1, size, "nearest")
    shown = upright_array(shown, orientation)
    height, width = shown.shape[:2]
    whole = full_region(height, width)
    return ConvertedImage(pack_labels(shown[:, :, 0]), (height, width), original_size, cut[0], [whole])


def as_ppm(image: Image.Image) -> bytes:
    """Returns an image, RGB or gray, as a binary PPM."""
    return b"P6\n%d %d\n255\n" % image.size + _rgb(image).tobytes()


def render(
    payload: memoryview,
    region: Region,
    orientation: int,
    target: tuple[int, int] | None,
    *,
    draft: bool,
    max_pixels: int,
    mask: str = "",
) -> Image.Image:
    """Decodes one image, upright: `region` scaled to `target`, or the whole image if `target` is None.

    Returns mode RGB; or mode L with `mask`, which names the filter: "nearest" or "lanczos".

    orientation: the EXIF orientation, 1 to 8; it is not read from the image again.
    draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size if the region shrinks at least as much.
    Raises Rejected. Safe on any thread.
    """
    with translate_errors():
        return render_opened(open_image(payload, max_pixels), region, orientation, target, draft=draft, mask=mask)


def render_array(
    payload: memoryview,
    region: Region,
    orientation: int,
    target: Size | None,
    *,
    draft: bool,
    max_pixels: int,
    mask: str = "",
) -> NDArray[np.uint8]:
    """Returns the result of `render` as an array (H, W, 3), or (H, W, 1) for a mask: maybe read-only or a view.

    This is faster than `render`. Raises Rejected. Safe on any thread.
    """
    if not mask:
        return render_views(payload, [(region, target)], orientation, draft=draft, max_pixels=max_pixels)[0]
    return _array(render(payload, region, orientation, target, draft=draft, max_pixels=max_pixels, mask=mask))


def render_views(
    payload: memoryview, views: Sequence[Cut], orientation: int, *, draft: bool, max_pixels: int
) -> list[NDArray[np.uint8]]:
    """Decodes an image once, and returns each view of it as `render_array` does.

    draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size if the regions of all views shrink at least as much.
    Raises Rejected. Safe on any thread.
    """
    with translate_errors():
        arrays = render_jpeg(payload, views, orientation, draft=draft, max_pixels=max_pixels)
        if arrays is not None:
            return arrays
        return [_array(view) for view in _render_each(open_image(payload, max_pixels), views, orientation, draft=draft)]


def _array(picture: Image.Image) -> NDArray[np.uint8]:
    # Pillow stores 4 bytes per pixel; numpy is ten times as slow as tobytes() at removing the fourth.
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.height, picture.width, -1)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Converts all of Pillow's exceptions to Rejected. No other place does this.

    Pillow's readers raise nearly anything on a hostile file: OSError, SyntaxError, struct.error, KeyError, ...
    MemoryError passes unchanged, because a lack of memory is not the image's fault.
    """
    try:
        yield
    except (Rejected, MemoryError):
        raise
    except Exception as error:
        raise Rejected("undecodable", f"{type(error).__name__}: {error}") from error


def render_opened(
    image: ImageFile.ImageFile,
    region: Region,
    orientation: int,
    target: Size | None,
    *,
    draft: bool,
    mask: str = "",
    own: bool = False,
) -> Image.Image:
    """Crops and scales the region as stored, then turns it upright, when it is small.

    own: return the image in its own 8-bit mode; else RGB, or gray for a mask.
    """
    return _render_each(image, [(region, target)], orientation, draft=draft, mask=mask, own=own)[0]


def _render_each(
    image: ImageFile.ImageFile,
    views: Sequence[Cut],
    orientation: int,
    *,
    draft: bool,
    mask: str = "",
    own: bool = False,
) -> list[Image.Image]:
    """Decodes an image once, and crops, scales and turns each view of it: see `render_opened`."""
    levels = mask_levels if mask else to_own_mode if own else picture_levels
    finish, name = _unchanged if mask or own else _rgb, mask or "lanczos"
    stored = [stored_cut(view, orientation, (image.height, image.width)) for view in views]
    divisor = _draft(image, stored) if draft and image.format == "JPEG" else 1
    picture = levels(image)
    scaled = (picture if size is None else scale_image(picture, box, divisor, size, name) for box, size in stored)
    return [finish(upright_image(view, orientation)) for view in scaled]


def _draft(image: ImageFile.ImageFile, cuts: Sequence[Cut]) -> int:
    """Makes Pillow reduce a JPEG if each box is at least twice its size in both directions. Returns the divisor."""
    divisor = common_shrinkage(cuts)
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))
    return divisor


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _unchanged(image: Image.Image) -> Image.Image:
    return image
