"""Converts the arrays of a loader to images to look at, and draws crops on originals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from datago_gpu.config import ImageConfig
from datago_gpu.decoders.device import on_host
from datago_gpu.imaging.geometry import Region

__all__ = ["fit_area", "mask_levels", "outline_crops", "to_picture"]

CROP_INK = (255, 64, 64)
_FURTHER_INK = (255, 190, 60)
"""Of the crops after the first."""
_SHADE = 0.45
"""Brightness factor outside the crop."""


def to_picture(array: Any, image: ImageConfig) -> Image.Image:
    """Converts one image of a batch to an RGB image: undoes encoding, layout and normalisation."""
    if isinstance(array, bytes):
        return _rgb(Image.open(io.BytesIO(array)))
    pixels = on_host(array)
    if image.layout == "CHW":
        pixels = pixels.transpose(1, 2, 0)
    if image.dtype != "uint8":
        std, mean = (np.asarray(each, np.float32) for each in (image.std or (1.0,), image.mean or (0.0,)))
        levels = pixels.astype(np.float32) * std + mean
        pixels = (levels * 255).round().clip(0, 255).astype(np.uint8)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return _rgb(Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)))


def _rgb(picture: Image.Image) -> Image.Image:
    """Converts an image to RGB. Transparent pixels become gray, as in RGB batches."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    gray = Image.new("RGBA", picture.size, (128, 128, 128, 255))
    return Image.alpha_composite(gray, picture.convert("RGBA")).convert("RGB")


def mask_levels(array: Any, image: ImageConfig) -> NDArray[Any]:
    """Returns one mask of a batch as (H, W), with its dtype unchanged."""
    if isinstance(array, bytes):
        picture = Image.open(io.BytesIO(array))
        return np.asarray(picture if picture.mode.startswith("I") else picture.convert("L"))
    levels = on_host(array)
    return np.ascontiguousarray(levels[0] if image.layout == "CHW" else levels[..., 0])


def fit_area(picture: Image.Image, area: int, longest: int) -> Image.Image:
    """Scales an image to about `area` pixels, with no side above `longest`. Small images are enlarged."""
    scale = min((area / (picture.width * picture.height)) ** 0.5, longest / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def outline_crops(picture: Image.Image, shown: Region, crops: Sequence[Region]) -> Image.Image:
    """Draws a frame around each crop, and darkens everything outside of them.

    shown: the region of the original that `picture` shows. crops: the regions to frame. All in pixels of the original.
    """
    boxes = [_box(picture, shown, crop) for crop in crops]
    result = picture.point(lambda level: level * _SHADE)
    for box in boxes:
        result.paste(picture.crop(box), box)
    pen = ImageDraw.Draw(result)
    for left, top, right, bottom in reversed(boxes):
        is_first = (left, top, right, bottom) == boxes[0]
        ink, width = (CROP_INK, 2) if is_first else (_FURTHER_INK, 1)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=ink, width=width)
    return result


def _box(picture: Image.Image, shown: Region, crop: Region) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of a crop in `picture`."""
    down, across = picture.height / shown[2], picture.width / shown[3]
    top, left = (crop[0] - shown[0]) * down, (crop[1] - shown[1]) * across
    bottom, right = top + crop[2] * down, left + crop[3] * across
    (left, right), (top, bottom) = _span(left, right, picture.width), _span(top, bottom, picture.height)
    return left, top, right, bottom


def _span(begin: float, end: float, length: int) -> tuple[int, int]:
    """Rounds a span to whole pixels: at least one, within 0 to `length`."""
    first = min(max(0, round(begin)), length - 1)
    return first, min(max(first + 1, round(end)), length)
