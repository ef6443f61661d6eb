"""Pictures of one color each, which tells a picture's number from any of its pixels."""

from __future__ import annotations

from pathlib import Path

from tests.support.images import SHAPES, add_picture

__all__ = ["COUNT", "add_numbered", "number_of", "red_of"]

COUNT = 26
_STEP = 9


def add_numbered(folder: Path) -> None:
    """Writes the pictures, in three shapes: 00.png, 01.png, and so on."""
    for number in range(COUNT):
        add_picture(folder / f"{number:02}.png", *SHAPES[number % 3], color=number * _STEP)


def number_of(value: float) -> int:
    """Returns the number of a picture. value: of its red, between 0 and 1."""
    return round(value * 255 / _STEP)


def red_of(number: float) -> float:
    """Returns the red of a picture, between 0 and 1."""
    return number * _STEP / 255
