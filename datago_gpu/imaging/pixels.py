"""One encoded image -> upright RGB pixels of one region, with Pillow and cykooz-resizer.

The Pillow back end uses it for every image; the feeder uses `to_ppm` for the payloads that DALI cannot decode, or would
render otherwise than we promise. It knows nothing of batches, threads or DALI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from datago_gpu.imaging.allowance import Allowance, taken
from datago_gpu.imaging.costs import decoding_bytes
from datago_gpu.imaging.deep import is_deep, label_numbers
from datago_gpu.imaging.formats import Undecodable, exif_orientation, open_image
from datago_gpu.imaging.geometry import Region, Size
from datago_gpu.imaging.jpeg import render_jpeg
from datago_gpu.imaging.labels import pack_labels
from datago_gpu.imaging.levels import mask_levels, picture_levels
from datago_gpu.imaging.modes import as_own
from datago_gpu.imaging.orientation import stored_box, upright_array, upright_image
from datago_gpu.imaging.scaling import scale_array, scale_image, shrinkage

__all__ = [
    "Converted",
    "Undecodable",
    "as_ppm",
    "ppm_bytes",
    "render",
    "render_array",
    "show",
    "to_ppm",
    "translated_errors",
]

View = Callable[[int, int], tuple[Region, Size | None]]
"""(height, width) of an image as displayed -> what is to be seen, and the size to scale that to; None: its own size."""


@dataclass(frozen=True, slots=True)
class Converted:
    """An image as decoders take it, and what was taken from it."""

    payload: bytes
    """A binary PPM: upright, RGB, 8 bits. Or the numbers of a deep mask: see labels.py."""
    size: tuple[int, int]
    """Height and width of the payload's picture."""
    original_size: tuple[int, int]
    """Height and width of the whole image as displayed."""
    crop: Region
    """The region of the whole image that the payload shows."""


def ppm_bytes(payload: bytes, max_pixels: int) -> int:
    """What `to_ppm` makes of a whole image, by its header; 0 where it makes nothing of it."""
    try:
        with translated_errors():
            image = open_image(payload, max_pixels)
            return 3 * image.height * image.width
    except Undecodable:
        return 0


def to_ppm(
    payload: bytes,
    view: View,
    max_pixels: int,
    *,
    mask: str = "",
    deep: bool = False,
    memory: Allowance | None = None,
) -> Converted:
    """Decode any image that Pillow knows to a PPM; what is transparent shows mid-gray.

    max_pixels: of the header; images with more are not decoded.
    mask: "nearest" or "lanczos" for a mask, which becomes gray.
    deep: a gray mask of more than 8 bits keeps its numbers, and is scaled by "nearest".
    memory: what decoding may take; None: what it wants.
    Raises Undecodable. Safe on any thread.
    """
    with translated_errors():
        image = open_image(payload, max_pixels)
        whole = view(image.height, image.width)[1] is None
        with taken(memory, decoding_bytes(payload, image.height, image.width, whole=whole)):
            converted = _converted(image, view, mask, deep=deep)
            del image  # its pixels
        return converted


def _converted(image: ImageFile.ImageFile, view: View, mask: str, *, deep: bool) -> Converted:
    # Pixels before EXIF: where Pillow fails within getexif(), as of a PNG, the next load() returns what there is.
    numbers = label_numbers(image) if deep and is_deep(image) else None
    if numbers is not None:
        return _as_labels(numbers, exif_orientation(image), view)
    picture = mask_levels(image) if mask else picture_levels(image)
    orientation = exif_orientation(image)
    stored = picture.height, picture.width
    size = _displayed(stored, orientation)
    region, target = view(*size)
    if target is not None:
        box = stored_box(region, orientation, stored)
        picture = scale_image(picture, box, 1, _displayed(target, orientation), mask or "lanczos")
    shown = upright_image(picture, orientation)
    return Converted(as_ppm(shown), (shown.height, shown.width), size, region)


def _as_labels(numbers: NDArray[Any], orientation: int, view: View) -> Converted:
    """numbers: (H, W) as stored."""
    stored = (numbers.shape[0], numbers.shape[1])
    size = _displayed(stored, orientation)
    region, target = view(*size)
    shown = numbers[:, :, None]
    if target is not None:
        box = stored_box(region, orientation, stored)
        shown = scale_array(shown, box, 1, _displayed(target, orientation), "nearest")
    shown = upright_array(shown, orientation)
    return Converted(pack_labels(shown[:, :, 0]), (shown.shape[0], shown.shape[1]), size, region)


def _displayed(stored: Size, orientation: int) -> Size:
    """A size (height, width) as stored -> as displayed, or the other way round."""
    return stored if orientation < 5 else (stored[1], stored[0])


def as_ppm(image: Image.Image) -> bytes:
    """An image, RGB or gray, as a binary PPM."""
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
    """Decode one image, upright: `region` scaled to `target`, or all of it where `target` is None.

    In mode RGB; or in mode L with `mask`, which is then the filter: "nearest" or "lanczos".

    orientation: the EXIF orientation, 1 to 8; the image's own is not read again.
    draft: decode a JPEG at 1/2, 1/4 or 1/8 where the region shrinks at least as much.
    Raises Undecodable. Safe on any thread.
    """
    with translated_errors():
        return show(open_image(payload, max_pixels), region, orientation, target, draft=draft, mask=mask)


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
    """What `render` shows as an array (H, W, 3), or (H, W, 1) for a mask: contiguous, maybe read-only.

    The quicker of the two. Raises Undecodable. Safe on any thread.
    """
    if not mask:
        with translated_errors():
            pixels = render_jpeg(payload, region, orientation, target, draft=draft, max_pixels=max_pixels)
        if pixels is not None:
            return pixels
    picture = render(payload, region, orientation, target, draft=draft, max_pixels=max_pixels, mask=mask)
    # Pillow keeps 4 bytes a pixel; numpy drops the fourth ten times as slowly as tobytes().
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.height, picture.width, -1)


@contextmanager
def translated_errors() -> Iterator[None]:
    """The one place where Pillow's exceptions become ours.

    Pillow's readers raise nearly anything on a hostile file: OSError, SyntaxError, struct.error, KeyError, ...
    A lack of memory is not the image's fault: MemoryError passes.
    """
    try:
        yield
    except (Undecodable, MemoryError):
        raise
    except Exception as error:
        raise Undecodable("undecodable", f"{type(error).__name__}: {error}") from error


def show(
    image: ImageFile.ImageFile,
    region: Region,
    orientation: int,
    target: Size | None,
    *,
    draft: bool,
    mask: str = "",
    own: bool = False,
) -> Image.Image:
    """The region, cut and scaled as it is stored and turned upright when it is small.

    own: in the image's own mode, of 8 bits; else RGB, or gray for a mask.
    """
    levels = mask_levels if mask else as_own if own else picture_levels
    finish = _same if mask or own else _rgb
    if target is None:
        return finish(upright_image(levels(image), orientation))
    box = stored_box(region, orientation, (image.height, image.width))
    size = _displayed(target, orientation)
    divisor = _draft(image, box, size) if draft and image.format == "JPEG" else 1
    return finish(upright_image(scale_image(levels(image), box, divisor, size, mask or "lanczos"), orientation))


def _draft(image: ImageFile.ImageFile, box: Region, size: Size) -> int:
    """Have a JPEG decoded smaller where the box is at least twice `size` in both directions; the divisor used."""
    divisor = shrinkage(box, size)
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))
    return divisor


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _same(image: Image.Image) -> Image.Image:
    return image
