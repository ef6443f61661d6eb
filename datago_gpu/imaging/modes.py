"""The channels and depth that an image has by itself, as datago tells them."""

from __future__ import annotations

from PIL import Image, ImageFile

__all__ = ["as_own", "own_mode"]


def own_mode(image: ImageFile.ImageFile) -> str:
    """ "L", "LA", "RGB" or "RGBA": what the image is delivered as. Reads no pixels.

    Palettes are what they stand for; a GIF has an alpha channel in any case. CMYK and other spaces become RGB.
    """
    if image.format == "GIF":
        return "RGBA"
    if image.mode in ("LA", "La"):
        return "LA"
    gray = image.mode in ("1", "L", "F") or image.mode.startswith("I")
    if image.has_transparency_data:
        return "LA" if gray else "RGBA"
    return "L" if gray else "RGB"


def as_own(image: Image.Image) -> Image.Image:
    """Decode an image of 8 bits, and convert it to its own mode."""
    assert isinstance(image, ImageFile.ImageFile)
    mode = own_mode(image)  # before loading, which may change it
    image.load()
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)
