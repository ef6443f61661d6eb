"""Draws masks over images: cut-outs in one colour per name, label maps in one colour per label."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["Colour", "MaskKind", "colour_of", "kind_of_mask", "overlay_mask"]

Colour = tuple[int, int, int]
MaskKind = Literal["cut-out", "labels"]

# Told apart by people with any colour vision, after Okabe and Ito; no gray, which photographs have.
_COLOURS: list[Colour] = [(0, 200, 255), (255, 90, 200), (255, 176, 0), (0, 190, 110), (120, 94, 240), (235, 225, 40)]
_OPACITY = 0.5
_MOST_LABELS = 48
"""More different values are shades."""
_NEARLY = 12
"""Levels by which JPEG may miss 0 and 255."""


def colour_of(number: int) -> Colour:
    """Returns the colour of a mask, given its number."""
    return _COLOURS[number % len(_COLOURS)]


def kind_of_mask(levels: Iterable[NDArray[Any]]) -> MaskKind:
    """Decides from the values in all masks of one name whether they are cut-outs or label maps.

    A cut-out has one value besides 0, or shades: many values, or mostly the highest values. A label map has few values,
    mostly lower ones.
    """
    counts: Counter[int] = Counter()
    highest = 255
    for each in levels:
        values, pixels = np.unique(each, return_counts=True)
        counts.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
        highest = max(highest, int(np.iinfo(each.dtype).max))
    del counts[0]
    full = sum(count for value, count in counts.items() if value > highest - highest // 255 * _NEARLY)
    if len(counts) <= 1 or len(counts) > _MOST_LABELS or full >= 0.6 * counts.total():
        return "cut-out"
    return "labels"


def overlay_mask(picture: Image.Image, levels: NDArray[Any], kind: MaskKind, colour: Colour) -> Image.Image:
    """Draws a mask of any size and dtype over an image. The mask is stretched to the size of the image."""
    if kind == "labels":
        numbers = np.where(levels == 0, 0, (levels - 1) % 255 + 1).astype(np.uint8)  # colours repeat after 255
        values = np.asarray(Image.fromarray(numbers).resize(picture.size, Image.Resampling.NEAREST))
        return _blend(picture, _LABELS[values], (values > 0).astype(np.float32) * np.float32(_OPACITY))
    highest = max(1, int(levels.max()))
    full = Image.fromarray((levels.clip(0).astype(np.int64) * 255 // highest).astype(np.uint8))
    stretched = full.resize(picture.size, Image.Resampling.BILINEAR)
    covered = np.asarray(stretched, np.float32) / np.float32(255)
    body = _blend(picture, np.array(colour, np.float32), covered * np.float32(_OPACITY))
    inside = stretched.point(lambda level: 255 * (level > 127))
    edge = np.asarray(inside) > np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    return _blend(body, np.array(colour, np.float32), edge.astype(np.float32))


def _blend(picture: Image.Image, colour: NDArray[np.float32], opacity: NDArray[np.float32]) -> Image.Image:
    """Blends a colour over an image. colour: (3,) or (H, W, 3). opacity: (H, W), 0 to 1."""
    share = opacity[..., None]
    mixed = np.asarray(picture, np.float32) * (1 - share) + colour * share
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _label_colours() -> NDArray[np.float32]:
    """Returns (256, 3) colours, with hues a golden angle apart, so that consecutive numbers differ."""
    hues = [colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.9 - 0.25 * (number % 2), 1.0) for number in range(256)]
    return np.array(hues, np.float32) * 255


_LABELS = _label_colours()
