"""One encoded image -> upright RGB pixels of one region, with Pillow and cykooz-resizer.

The Pillow back end uses it for every image; the feeder uses `to_ppm` for the payloads that DALI cannot decode, or would
render otherwise than we promise. It knows nothing of batches, threads or DALI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from datago_gpu.decode.formats import Undecodable, exif_orientation, open_image
from datago_gpu.decode.jpeg import render_jpeg
from datago_gpu.decode.modes import as_own
from datago_gpu.decode.scaling import scale_image, shrinkage
from datago_gpu.decode.upright import stored_box, upright_image
from datago_gpu.geometry import Region, Size

__all__ = [
    "Converted",
    "Undecodable",
    "as_ppm",
    "render",
    "render_array",
    "show",
    "to_ppm",
    "translated_errors",
]

_GRAY = (128, 128, 128, 255)
"""What shows through transparent pixels, as in datago."""


@dataclass(frozen=True, slots=True)
class Converted:
    """An image as a PPM, and what was taken from it."""

    ppm: bytes
    """A binary PPM: upright, RGB, 8 bits."""
    size: tuple[int, int]
    """Height and width of the PPM."""
    original_size: tuple[int, int]
    """Height and width of the whole image as displayed."""
    crop: Region
    """The region of the whole image that the PPM shows."""


def to_ppm(
    payload: bytes, view: Callable[[int, int], tuple[Region, Size | None]], max_pixels: int, *, mask: str = ""
) -> Converted:
    """Decode any image that Pillow knows to a PPM; what is transparent shows mid-gray.

    view: (height, width) as displayed -> what is to be seen, and the size to scale that to, or None to leave it alone.
    max_pixels: of the header; images with more are not decoded.
    mask: "nearest" or "lanczos" for a mask, which becomes gray.
    Raises Undecodable. Safe on any thread.
    """
    with translated_errors():
        image = open_image(payload, max_pixels)
        image.load()  # first: where it fails within getexif(), as of a PNG, the next load() returns what there is
        orientation = exif_orientation(image)
        size = (image.height, image.width) if orientation < 5 else (image.width, image.height)
        region, target = view(*size)
        shown = show(image, region, orientation, target, draft=False, mask=mask)
        return Converted(as_ppm(shown), (shown.height, shown.width), size, region)


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
    levels, finish = (_labels, _same) if mask else (as_own, _same) if own else (_eight_bit, _rgb)
    if target is None:
        return finish(upright_image(levels(image), orientation))
    box = stored_box(region, orientation, (image.height, image.width))
    size = target if orientation < 5 else (target[1], target[0])
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


def _labels(image: Image.Image) -> Image.Image:
    """A mask in mode L: the numbers of a coloured palette (class labels), else the brightness."""
    image.load()
    if image.mode == "P" and not _gray_palette(image):
        return Image.frombytes("L", image.size, image.tobytes())
    if image.mode.startswith("I"):
        return _eight_bit(image)
    return image if image.mode == "L" else image.convert("L")


def _gray_palette(image: Image.Image) -> bool:
    levels = image.getpalette("RGB") or []
    return levels[0::3] == levels[1::3] == levels[2::3]


def _eight_bit(image: Image.Image) -> Image.Image:
    """Decode, and convert to RGB, or to L for gray, which scales in a third of the time."""
    image.load()
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, _GRAY), shown).convert("RGB")
    if image.mode.startswith("I"):
        # convert() clips at 255; 65535 / 255 = 257.
        levels = np.asarray(image).astype(np.int32).clip(0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    # Floating-point pixels have no range that is agreed on: they are taken as levels, and clipped, as Pillow does it.
    return image.convert("L" if image.mode in ("1", "F") else "RGB")
