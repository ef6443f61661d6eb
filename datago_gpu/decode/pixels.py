"""One encoded image -> upright RGB pixels of one region, with Pillow and cykooz-resizer.

The Pillow back end uses it for every image; the feeder uses `to_ppm` for the payloads that DALI cannot decode, or would
render otherwise than we promise. It knows nothing of batches, threads or DALI.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image, ImageFile

from datago_gpu.decode.formats import Undecodable, exif_orientation, open_image
from datago_gpu.decode.modes import as_own
from datago_gpu.geometry import Region, Size

__all__ = [
    "Converted",
    "Undecodable",
    "as_ppm",
    "render",
    "resizer",
    "show",
    "stored_box",
    "to_ppm",
    "translated_errors",
]

_GRAY = (128, 128, 128, 255)
"""What shows through transparent pixels, as in datago."""

_FILTERS = {"lanczos": ResizeAlg.convolution(FilterType.lanczos3), "nearest": ResizeAlg.nearest()}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FLIPPED = {2: (False, True), 3: (True, True), 4: (True, False), 6: (False, True), 7: (True, True), 8: (True, False)}
"""EXIF orientation -> whether the displayed picture runs against the stored one, vertically and horizontally."""


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
        return finish(_upright(levels(image), orientation))
    box = stored_box(region, orientation, (image.height, image.width))
    size = target if orientation < 5 else (target[1], target[0])
    scale = _draft(image, box, size) if draft and image.format == "JPEG" else 1
    return finish(_upright(_resize(levels(image), box, scale, size, mask or "lanczos"), orientation))


def stored_box(region: Region, orientation: int, stored: tuple[int, int]) -> Region:
    """A region in the coordinates of the pixels as stored in an image of (height, width)."""
    top, left, height, width = map(float, region)
    displayed = stored if orientation < 5 else (stored[1], stored[0])
    upside_down, mirrored = _FLIPPED.get(orientation, (False, False))
    if upside_down:
        top = displayed[0] - top - height
    if mirrored:
        left = displayed[1] - left - width
    return (top, left, height, width) if orientation < 5 else (left, top, width, height)


def _draft(image: ImageFile.ImageFile, box: Region, size: tuple[int, int]) -> int:
    """Have a JPEG decoded smaller where the box is at least twice `size` in both directions; the divisor used."""
    shrink = min(box[2] / size[0], box[3] / size[1])
    scale = next((scale for scale in (8, 4, 2) if shrink >= scale), 1)
    if scale == 1:
        return 1
    wide, high = image.size
    image.draft(None, (wide // scale, high // scale))
    return scale


def _resize(image: Image.Image, box: Region, scale: int, size: Size, name: str) -> Image.Image:
    """Cut a box (in pixels before the division by `scale`) and scale it to `size` in one pass."""
    top, left = max(box[0] / scale, 0.0), max(box[1] / scale, 0.0)
    # Rounding may have put the far edges a hair outside.
    high, wide = min(box[2] / scale, image.height - top), min(box[3] / scale, image.width - left)
    if (top, left, high, wide) == (0.0, 0.0, *size) and image.size == (size[1], size[0]):
        return image
    if image.mode == "LA":  # which the resizer does not know
        return _resize(image.convert("RGBA"), box, scale, size, name).convert("LA")
    result = Image.new(image.mode, (size[1], size[0]))
    options = ResizeOptions(_FILTERS[name], use_alpha=False, crop_box=CropBox(left, top, wide, high))
    resizer().resize_pil(image, result, options)
    return result


_of_thread = threading.local()


def resizer() -> Resizer:
    """This thread's own: a Resizer keeps working memory and refuses to be used by two threads at once."""
    if not hasattr(_of_thread, "resizer"):
        _of_thread.resizer = Resizer()
    return _of_thread.resizer


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


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
