"""Finds the channels that an image has by itself, by datago's rules."""

from __future__ import annotations

from PIL import Image, ImageFile

__all__ = ["own_mode", "to_own_mode"]


def own_mode(image: ImageFile.ImageFile) -> str:
    """Returns the mode in which the image is delivered: "L", "LA", "RGB" or "RGBA". Reads no pixels.

    Palettes are resolved to their colours. A GIF always has an alpha channel. CMYK and other colour spaces become RGB.
    """
    if image.format == "GIF":
        return "RGBA"
    if image.mode in ("LA", "La"):
        return "LA"
    gray = image.mode in ("1", "L", "F") or image.mode.startswith("I")
    if image.has_transparency_data:
        return "LA" if gray else "RGBA"
    return "L" if gray else "RGB"


def to_own_mode(image: Image.Image) -> Image.Image:
    """Decodes an 8-bit image and converts it to its own mode (see `own_mode`)."""
    assert isinstance(image, ImageFile.ImageFile)
    mode = own_mode(image)  # before loading, which may change it
    image.load()
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)
