"""Renders one region of one encoded image as upright RGB pixels, with Pillow and cykooz-resizer.

The Pillow back end uses this module for every image. The feeder uses `to_ppm` for payloads that DALI cannot decode, or
would render differently from our specification. This module knows nothing about batches, threads or DALI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from datago_gpu.errors import Rejected
from datago_gpu.imaging.allowance import Allowance, reserve
from datago_gpu.imaging.costs import decoding_bytes
from datago_gpu.imaging.deep import is_deep, label_numbers
from datago_gpu.imaging.formats import exif_orientation, open_image
from datago_gpu.imaging.geometry import Region, Size
from datago_gpu.imaging.jpeg import render_jpeg
from datago_gpu.imaging.labels import pack_labels
from datago_gpu.imaging.levels import mask_levels, picture_levels
from datago_gpu.imaging.modes import to_own_mode
from datago_gpu.imaging.orientation import stored_box, upright_array, upright_image
from datago_gpu.imaging.scaling import scale_array, scale_image, shrinkage

__all__ = [
    "ConvertedImage",
    "as_ppm",
    "ppm_bytes",
    "render",
    "render_array",
    "render_opened",
    "to_ppm",
    "translate_errors",
]

View = Callable[[int, int], tuple[Region, Size | None]]
"""(height, width) of an image as displayed -> the region to show, and the size to scale it to (None: not scaled)."""


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
    """The region of the whole image that the payload shows."""


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
    view: View,
    max_pixels: int,
    *,
    mask: str = "",
    deep: bool = False,
    memory: Allowance | None = None,
    whole: bool | None = None,
) -> ConvertedImage:
    """Decodes any image that Pillow supports to a PPM. Transparent pixels become mid-gray.

    max_pixels: images with more pixels, according to the header, are not decoded.
    mask: "nearest" or "lanczos" for a mask, which becomes gray.
    deep: a gray mask of more than 8 bits keeps its numbers, and is scaled with "nearest".
    memory: the memory limit for decoding; None: no limit.
    whole: whether the image keeps its size. None: as `view` says, which must then accept the size as stored, too.
    Raises Rejected. Safe on any thread.
    """
    with translate_errors():
        image = open_image(payload, max_pixels)
        whole = view(image.height, image.width)[1] is None if whole is None else whole
        with reserve(memory, decoding_bytes(payload, image.height, image.width, whole=whole)):
            converted = _convert(image, view, mask, deep=deep)
            del image  # frees the pixels
        return converted


def _convert(image: ImageFile.ImageFile, view: View, mask: str, *, deep: bool) -> ConvertedImage:
    # Pixels before EXIF: if Pillow fails within getexif(), for example on a PNG, the next load() returns partial data.
    numbers = label_numbers(image) if deep and is_deep(image) else None
    if numbers is not None:
        return _convert_labels(numbers, exif_orientation(image), view)
    picture = mask_levels(image) if mask else picture_levels(image)
    orientation = exif_orientation(image)
    stored = picture.height, picture.width
    size = _swap_size(stored, orientation)
    region, target = view(*size)
    if target is not None:
        box = stored_box(region, orientation, stored)
        picture = scale_image(picture, box, 1, _swap_size(target, orientation), mask or "lanczos")
    shown = upright_image(picture, orientation)
    return ConvertedImage(as_ppm(shown), (shown.height, shown.width), size, region)


def _convert_labels(numbers: NDArray[Any], orientation: int, view: View) -> ConvertedImage:
    """Converts a deep mask. numbers: (H, W) as stored."""
    stored = (numbers.shape[0], numbers.shape[1])
    size = _swap_size(stored, orientation)
    region, target = view(*size)
    shown = numbers[:, :, None]
    if target is not None:
        box = stored_box(region, orientation, stored)
        shown = scale_array(shown, box, 1, _swap_size(target, orientation), "nearest")
    shown = upright_array(shown, orientation)
    return ConvertedImage(pack_labels(shown[:, :, 0]), (shown.shape[0], shown.shape[1]), size, region)


def _swap_size(stored: Size, orientation: int) -> Size:
    """Converts a size (height, width) from stored to displayed, or from displayed to stored."""
    return stored if orientation < 5 else (stored[1], stored[0])


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
        with translate_errors():
            pixels = render_jpeg(payload, region, orientation, target, draft=draft, max_pixels=max_pixels)
        if pixels is not None:
            return pixels
    picture = render(payload, region, orientation, target, draft=draft, max_pixels=max_pixels, mask=mask)
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
    levels = mask_levels if mask else to_own_mode if own else picture_levels
    finish = _unchanged if mask or own else _rgb
    if target is None:
        return finish(upright_image(levels(image), orientation))
    box = stored_box(region, orientation, (image.height, image.width))
    size = _swap_size(target, orientation)
    divisor = _draft(image, box, size) if draft and image.format == "JPEG" else 1
    return finish(upright_image(scale_image(levels(image), box, divisor, size, mask or "lanczos"), orientation))


def _draft(image: ImageFile.ImageFile, box: Region, size: Size) -> int:
    """Makes Pillow reduce a JPEG if the box is at least twice `size` in both directions. Returns the divisor."""
    divisor = shrinkage(box, size)
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))
    return divisor


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _unchanged(image: Image.Image) -> Image.Image:
    return image
