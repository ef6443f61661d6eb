"""Reads with Pillow the header of an image that header.py does not know."""

from __future__ import annotations

from datago_gpu.imaging.chunks import may_change_orientation_late
from datago_gpu.imaging.formats import exif_orientation, open_image
from datago_gpu.imaging.geometry import Size
from datago_gpu.imaging.pixels import translate_errors

__all__ = ["pillow_size"]

_HEADER_ONLY = frozenset(("JPEG", "PNG", "WEBP", "PPM", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"))
"""Pillow's formats whose size is known before the pixels are decoded."""


def pillow_size(payload: bytes, max_pixels: int) -> tuple[Size, str] | None:
    """Returns (height, width) as displayed, and the format, of an image that Pillow can open. Decodes no pixels.

    Returns None for a rare format, whose size is known only once the pixels are decoded. Raises Rejected.
    """
    with translate_errors():
        image = open_image(payload, max_pixels)
        if image.format not in _HEADER_ONLY:
            return None
        if image.format == "PNG" and may_change_orientation_late(payload):
            image.load()  # reads the chunks behind the pixels
        upright = exif_orientation(image) < 5  # 1 for a TIFF, whose size Pillow itself turns
        return (image.height, image.width) if upright else (image.width, image.height), image.format.lower()
