"""Draws a contact sheet of a loader's images, with one row per bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from datago_gpu.batch import Batch
from datago_gpu.decoders.device import on_host

__all__ = ["ContactSheet"]

THUMBNAIL = 104
GAP = 8
LABEL = 130
TITLE = "datago-gpu demo: pictures of each bucket, as a model gets them. Sizes are width x height in pixels."
TITLE_HEIGHT = 26
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)


class ContactSheet:
    """Collects a few images of each bucket. Needs uint8 batches of layout "HWC" with a bucket."""

    def __init__(self, columns: int = 9) -> None:
        self._columns = columns
        self._tiles: dict[tuple[int, int], list[Image.Image]] = {}
        self._counts: dict[tuple[int, int], int] = {}

    def add(self, batch: Batch) -> None:
        """Copies some images of a batch."""
        assert batch.bucket is not None
        tiles = self._tiles.setdefault(batch.bucket, [])
        self._counts[batch.bucket] = self._counts.get(batch.bucket, 0) + len(batch)
        for index in range(min(self._columns - len(tiles), len(batch))):
            tiles.append(_thumbnail(on_host(batch.image[index])))

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
        pen.text((GAP, top + 20), f"{self._counts[bucket]} images", FAINT, ImageFont.load_default(12))
        left = LABEL
        for tile in self._tiles[bucket]:
            sheet.paste(tile, (left, top))
            left += tile.width + GAP


def _thumbnail(pixels: Any) -> Image.Image:
    """Scales an image to about the same area as the others, whatever its shape."""
    picture = Image.fromarray(pixels)
    scale = THUMBNAIL / (picture.width * picture.height) ** 0.5
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
