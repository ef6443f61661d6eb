"""The channels and depth that an image has by itself, as datago tells them."""

from __future__ import annotations

from PIL import Image, ImageFile

__all__ = ["as_own", "is_deep", "own_mode"]


def own_mode(image: ImageFile.ImageFile) -> str:
    """ "L", "LA", "RGB" or "RGBA": what the image is delivered as. Reads no pixels.

    Palettes are what they stand for; a GIF has an alpha channel in any case. CMYK and other spaces become RGB.
    """
    if image.format == "GIF":
        return "RGBA"
    if image.mode in ("LA", "La"):
        return "LA"
    gray = image.mode in ("1", "L", "F") or image.mode.startswith("I")
    if image.has_transparency_data and not image.mode.startswith("I"):
        return "LA" if gray else "RGBA"
    return "L" if gray else "RGB"


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether it has 16 bits a channel. Pillow opens colours of 16 bits in modes of 8, so the stored form is asked."""
    if image.mode.startswith("I"):
        return True
    return image.format == "PNG" and any(";16" in str(tile.args) for tile in image.tile)


def as_own(image: Image.Image) -> Image.Image:
    """Decode an image of 8 bits, and convert it to its own mode."""
    assert isinstance(image, ImageFile.ImageFile)
    mode = own_mode(image)  # before loading, which may change it
    image.load()
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)
