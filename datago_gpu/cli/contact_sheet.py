"""Draws a contact sheet of a loader's images, with their classes and captions, one row per bucket."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from datago_gpu.batch import Batch, Sample
from datago_gpu.decoders.device import on_host
from datago_gpu.preview.text import caption_of, shorten

__all__ = ["ContactSheet"]

THUMBNAIL = 104
GAP = 8
LABEL = 130
LINE, WORDS = 13, 2
"""Height of a line of text below an image, and number of such lines."""
TITLE = (
    "datago-gpu demo: pictures of each bucket, as a model gets them: cut at random, some mirrored, with class and "
    "caption. Sizes are width x height in pixels."
)
TITLE_HEIGHT = 26
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)


class ContactSheet:
    """Collects a few images of each bucket. Needs uint8 batches of layout "HWC" with a bucket.

    classes: the names of the classes, in the order of their labels.
    """

    def __init__(self, classes: Sequence[str] = (), columns: int = 9) -> None:
        self._classes, self._columns = classes, columns
        self._tiles: dict[tuple[int, int], list[Image.Image]] = {}
        self._counts: dict[tuple[int, int], int] = {}

    def add(self, batch: Batch) -> None:
        """Copies some images of a batch."""
        assert batch.bucket is not None
        tiles = self._tiles.setdefault(batch.bucket, [])
        self._counts[batch.bucket] = self._counts.get(batch.bucket, 0) + len(batch)
        for index in range(min(self._columns - len(tiles), len(batch))):
            tiles.append(_with_words(_thumbnail(on_host(batch.image[index])), self._words(batch[index])))

    def _words(self, sample: Sample) -> list[str]:
        name = "" if sample.label is None or sample.label < 0 else self._classes[sample.label]
        return [", ".join(filter(None, [name, "mirrored" if sample.flipped else ""])), caption_of(sample.attributes)]

    def save(self, path: Path) -> None:
        """Writes the sheet as PNG, widest bucket first."""
        buckets = sorted(self._tiles, key=lambda bucket: bucket[0] / bucket[1])
        rows = [(bucket, max(tile.height for tile in self._tiles[bucket])) for bucket in buckets]
        width = LABEL + max(self._row_width(bucket) for bucket in buckets) + GAP
        height = TITLE_HEIGHT + sum(height + GAP for _, height in rows) + GAP
        sheet = Image.new("RGB", (width, height), PAPER)
        pen, top = ImageDraw.Draw(sheet), GAP + TITLE_HEIGHT
        pen.text((GAP, GAP), TITLE, INK, ImageFont.load_default(15))
        for bucket, height in rows:
            self._draw_row(sheet, pen, bucket, top)
            top += height + GAP
        sheet.save(path, "PNG")

    def _row_width(self, bucket: tuple[int, int]) -> int:
        return sum(tile.width + GAP for tile in self._tiles[bucket])

    def _draw_row(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, bucket: tuple[int, int], top: int) -> None:
        pen.text((GAP, top), f"{bucket[1]} x {bucket[0]}", INK, ImageFont.load_default(15))
        shown = f"{self._counts[bucket]} images, {len(self._tiles[bucket])} shown"
        pen.text((GAP, top + 20), shown, FAINT, ImageFont.load_default(12))
        left = LABEL
        for tile in self._tiles[bucket]:
            sheet.paste(tile, (left, top))
            left += tile.width + GAP


def _thumbnail(pixels: Any) -> Image.Image:
    """Scales an image to about the same area as the others, whatever its shape."""
    picture = Image.fromarray(pixels)
    scale = THUMBNAIL / (picture.width * picture.height) ** 0.5
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def _with_words(picture: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Returns the image with lines of text below."""
    tile = Image.new("RGB", (picture.width, picture.height + WORDS * LINE), PAPER)
    tile.paste(picture, (0, 0))
    pen = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        text = _fit(line, picture.width)
        pen.text((0, picture.height + number * LINE), text, FAINT if number else INK, _font())
    return tile


def _fit(text: str, room: int) -> str:
    """Shortens a text until it fits."""
    length = len(text)
    while length > 1 and _font().getlength(shorten(text, length)) > room:
        length -= 1
    return shorten(text, length)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(10)
