"""Applies EXIF orientations: maps regions to the stored pixels, and turns pixels upright."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from PIL import Image

from datago_gpu.imaging.geometry import Cut, Region, Size

__all__ = ["stored_cut", "swap_size", "upright_array", "upright_image"]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FLIPPED = {2: (False, True), 3: (True, True), 4: (True, False), 6: (False, True), 7: (True, True), 8: (True, False)}
"""EXIF orientation -> whether the displayed image is reversed against the stored one, (vertically, horizontally)."""


def swap_size(size: Size, orientation: int) -> Size:
    """Converts a size (height, width) from stored to displayed, or from displayed to stored."""
    return size if orientation < 5 else (size[1], size[0])


def stored_cut(cut: Cut, orientation: int, stored: Size) -> Cut:
    """Converts what is shown of an image, from displayed to stored. stored: (height, width) of the image as stored."""
    region, target = cut
    return _stored_box(region, orientation, stored), target and swap_size(target, orientation)


def _stored_box(region: Region, orientation: int, stored: Size) -> Region:
    top, left, height, width = map(float, region)
    displayed = swap_size(stored, orientation)
    upside_down, mirrored = _FLIPPED.get(orientation, (False, False))
    if upside_down:
        top = displayed[0] - top - height
    if mirrored:
        left = displayed[1] - left - width
    return (top, left, height, width) if orientation < 5 else (left, top, width, height)


def upright_image(image: Image.Image, orientation: int) -> Image.Image:
    """Returns the image as it must be displayed."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright_array(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Does the same for an array (H, W, C). Returns a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
