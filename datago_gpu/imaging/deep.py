"""Decodes pixels of more than 8 bits per channel. Pillow has such modes only for gray; this module adds colours."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from datago_gpu.imaging.alpha import unpremultiply
from datago_gpu.imaging.tiff import Tiff

__all__ = ["deep_pixels", "gray_levels", "is_deep", "label_numbers"]

_HIGHEST = 65535


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Returns whether an image has more than 8 bits per channel. Call this before the pixels are loaded.

    Pillow opens 16-bit colours in 8-bit modes, so this function checks the stored form.
    """
    if image.mode.startswith("I"):
        return True
    if isinstance(image, Tiff):
        return image.bits == 16 and image.mode in ("RGB", "RGBA")
    if image.format == "PPM":
        return image.mode == "RGB" and _maximum(image) > 255
    return image.format == "PNG" and ";16" in str(image.tile[0].args)


def deep_pixels(image: ImageFile.ImageFile) -> NDArray[np.uint16]:
    """Decodes a deep image that is not loaded yet: (H, W, C) with C = 1 (gray), 2, 3 or 4 (with alpha), 0 to 65535."""
    transparent = image.info.get("transparency")
    pixels = _gray(image) if image.mode.startswith("I") else _colours(image)
    if transparent is None:
        return pixels
    alpha = np.any(pixels != np.array(transparent), axis=2, keepdims=True) * np.uint16(_HIGHEST)
    return np.concatenate([pixels, alpha], axis=2)


def gray_levels(image: Image.Image) -> NDArray[np.uint16]:
    """Returns the levels (H, W), 0 to 65535, of a gray image of 12, 16 or 32 bits."""
    numbers = np.asarray(image)
    if numbers.dtype != np.uint16:
        numbers = numbers.clip(0, _HIGHEST).astype(np.uint16)
    if isinstance(image, Tiff) and image.bits == 12:
        numbers = (numbers.astype(np.uint32) * _HIGHEST // 4095).astype(np.uint16)
    return numbers


def label_numbers(image: ImageFile.ImageFile) -> NDArray[Any] | None:
    """Decodes a deep gray image that is not loaded yet to its stored numbers: (H, W), uint16, or int32 for 32 bits.

    A transparent level and an alpha channel are ignored. Returns None for colours, which are not labels.
    """
    if not image.mode.startswith("I"):
        stored = str(image.tile[0].args) if image.format == "PNG" else ""
        return deep_pixels(image)[:, :, 0] if stored.startswith("LA") else None
    maximum = _maximum(image) if image.format == "PPM" else _HIGHEST
    numbers = np.asarray(image)
    if maximum != _HIGHEST:  # Pillow scaled the numbers
        numbers = (numbers.astype(np.int64) * maximum + _HIGHEST // 2) // _HIGHEST
    is_short = image.mode != "I" or image.format == "PPM"
    return numbers.astype(np.uint16 if is_short else np.int32)


def _maximum(image: ImageFile.ImageFile) -> int:
    """Returns the highest level of a PPM or PGM that is not loaded yet, guessed from the mode if Pillow hides it."""
    args = image.tile[0].args
    return int(args[-1]) if isinstance(args, tuple) else _HIGHEST if args == "I;16B" else 255


def _gray(image: ImageFile.ImageFile) -> NDArray[np.uint16]:
    image.load()
    return gray_levels(image)[:, :, None]


def _colours(image: ImageFile.ImageFile) -> NDArray[np.uint16]:
    if isinstance(image, Tiff):
        pixels = image.planes() if image.has_planes else _load_two_bytes(image, _byte_order(image))
        return unpremultiply(pixels) if image.is_associated else pixels
    if image.format == "PPM":
        return _load_ppm(image)
    if str(image.tile[0].args).startswith("LA"):
        # Read as RGBA, which also has four bytes per pixel: nothing is lost.
        whole = _load_as(image, "RGBA", "RGBA").astype(np.uint16)
        return np.left_shift(whole[:, :, 0::2], 8, dtype=np.uint16) | whole[:, :, 1::2]
    return _load_two_bytes(image, "BL")


def _load_two_bytes(image: ImageFile.ImageFile, order: str) -> NDArray[np.uint16]:
    """Decodes the upper bytes with Pillow, then the lower bytes.

    order: Pillow's letters for the first ("B") and the second ("L") byte of each pair, upper byte first.
    """
    assert isinstance(image.fp, io.BytesIO)
    again = type(image)(io.BytesIO(image.fp.getvalue()))
    channels = "RGBX" if "RGBX" in str(image.tile[0].args) else image.mode
    high, low = (
        _load_as(each, each.mode, f"{channels};16{end}") for each, end in zip((image, again), order, strict=True)
    )
    return np.left_shift(high, 8, dtype=np.uint16) | low


def _byte_order(image: Tiff) -> str:
    """Returns `order` for `_load_two_bytes`. libtiff returns numbers in the machine's byte order."""
    little = sys.byteorder == "little" if image.use_load_libtiff else image.tag_v2.prefix == b"II"
    return "LB" if little else "BL"


def _load_ppm(image: ImageFile.ImageFile) -> NDArray[np.uint16]:
    """Reads a PPM as a PGM that is three times as wide."""
    (width, height), tile = image.size, image.tile[0]
    image._mode, image._size = "I", (3 * width, height)  # noqa: SLF001 - readers set them themselves
    image.tile = [tile._replace(extents=(0, 0, 3 * width, height))]
    image.load()
    return gray_levels(image).reshape(height, width, 3)


def _load_as(image: ImageFile.ImageFile, mode: str, stored: str) -> NDArray[np.uint8]:
    image._mode = mode  # noqa: SLF001 - readers set it themselves
    image.tile = [
        tile._replace(args=(stored, *tile.args[1:]) if isinstance(tile.args, tuple) else stored) for tile in image.tile
    ]
    image.load()
    return np.asarray(image)
