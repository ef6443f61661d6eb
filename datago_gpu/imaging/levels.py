"""Converts the pixels of one image to 8 bits: RGB or gray, or a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from datago_gpu.imaging.deep import deep_pixels, gray_levels, is_deep

__all__ = ["mask_levels", "picture_levels"]

_GRAY = (128, 128, 128, 255)
"""Background of transparent pixels, as in datago."""
_STRIP_PIXELS = 256 * 1024


def picture_levels(image: ImageFile.ImageFile) -> Image.Image:
    """Decodes an image that is not loaded yet to 8-bit RGB, or to L if gray, which scales in a third of the time."""
    if "transparency" in image.info and is_deep(image):
        # Pillow would compare 8-bit pixels with the 16-bit transparent level.
        return _flatten(_upper_bits(deep_pixels(image)))
    image.load()
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return _flatten(image)
    if image.mode.startswith("I"):
        return _upper_bits(gray_levels(image)[:, :, None])
    # Floating-point pixels have no agreed range: they are used as levels from 0 to 255 and clipped, as in Pillow.
    return image.convert("L" if image.mode in ("1", "F") else "RGB")


def mask_levels(image: ImageFile.ImageFile) -> Image.Image:
    """Decodes a mask to mode L: the indices of a coloured palette (class labels), else the brightness in 8 bits."""
    image.load()
    if image.mode == "P" and not _has_gray_palette(image):
        return Image.frombytes("L", image.size, image.tobytes())
    if image.mode.startswith("I"):
        return _upper_bits(gray_levels(image)[:, :, None])
    if image.mode == "La":  # Pillow divides by alpha only when it converts to LA
        return image.convert("LA").convert("L")
    return image if image.mode == "L" else image.convert("L")


def _has_gray_palette(image: Image.Image) -> bool:
    levels = image.getpalette("RGB") or []
    return levels[0::3] == levels[1::3] == levels[2::3]


def _flatten(image: Image.Image) -> Image.Image:
    """Blends an image over gray, in strips: a large image at once would need 16 bytes per pixel, not 8."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return _blend_over_gray(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        whole.paste(_blend_over_gray(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    return whole


def _blend_over_gray(image: Image.Image) -> Image.Image:
    shown = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, _GRAY), shown).convert("RGB")


def _upper_bits(pixels: NDArray[np.uint16]) -> Image.Image:
    """Converts 16-bit pixels (H, W, C) to 8 bits. Gray is rounded; colours keep the upper byte, as in Pillow."""
    if pixels.shape[2] >= 3:
        return Image.fromarray((pixels >> 8).astype(np.uint8))
    wide = pixels.astype(np.uint32)
    wide += 128
    wide //= 257  # 65535 / 255
    gray = wide.astype(np.uint8)
    return Image.fromarray(gray[:, :, 0] if gray.shape[2] == 1 else gray)
