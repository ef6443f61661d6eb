"""Draws the histogram of buckets as one image: a bar for each bucket, with its shape and what the crop cuts away."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from datago_gpu.errors import ConfigError
from datago_gpu.preview.bucket_counts import BucketCount, BucketCounts
from datago_gpu.preview.sheet import FAINT, INK, PAPER, RULE, TALLEST, draw_text

__all__ = ["write_bucket_sheet"]

WIDTH, MARGIN = 1240, 24
LINE, TOP = 38, 118
"""Pixels of a bucket's line, and above the first one."""
_ICON = 34
"""Pixels of the longest side of the drawn shape of the largest bucket."""
_SIZE, _BAR, _COUNT, _BATCHES, _CUT = MARGIN + 52, MARGIN + 164, 690, 790, 990
"""Where the columns begin."""
_FULL, _ENLARGED, _CUT_INK, _LOST = (64, 116, 178), (226, 158, 66), (200, 72, 66), (150, 148, 144)
_HEADINGS = (
    (_SIZE, "height x width"),
    (_BAR, "images"),
    (_BATCHES, "batches x samples"),
    (_CUT, "cut away: mean, p95"),
)


def write_bucket_sheet(counts: BucketCounts, path: Path) -> None:
    """Writes a PNG. Raises ConfigError if it would be too tall, OSError if it cannot be written."""
    used, lost = counts.used, counts.lost
    height = TOP + LINE * len(used) + (LINE // 2 + LINE * len(lost) if lost else 0) + 44
    if height > TALLEST:
        raise ConfigError(f"a PNG of {height:,} rows is too tall: raise image_config.downsampling_ratio")
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_header(pen, counts)
    most = max([each.pictures for each in used] + list(lost.values()), default=1)
    longest = max((max(each.size) for each in used), default=1)
    top = TOP
    for each in used:
        _draw_bucket(pen, each, top, most, longest)
        top += LINE
    top += LINE // 2
    for reason, number in lost.items():
        draw_text(pen, (MARGIN, top + 10), reason, INK, 14, _BAR - MARGIN - 8)
        _draw_bar(pen, top, [(number, _LOST)], most)
        draw_text(pen, (_COUNT, top + 10), _with_share(number, counts), INK, 14)
        top += LINE
    sheet.save(path, "PNG")


def _draw_header(pen: ImageDraw.ImageDraw, counts: BucketCounts) -> None:
    draw_text(pen, (MARGIN, 16), "datago-gpu preview --buckets", INK, 24)
    sizes = "sizes as listed" if counts.listed else "sizes of the headers"
    used, empty = len(counts.used), len(counts.buckets) - len(counts.used)
    line = f"{counts.title}  ·  {counts.pictures:,} images, {used} buckets with and {empty} without images  ·  {sizes}"
    draw_text(pen, (MARGIN, 50), line, FAINT, 14, WIDTH - 2 * MARGIN)
    for left, text in _HEADINGS:
        draw_text(pen, (left, 86), text, FAINT, 13)
    if any(each.enlarged for each in counts.used):
        pen.rectangle((_BAR + 70, 89, _BAR + 82, 99), fill=_ENLARGED)
        draw_text(pen, (_BAR + 88, 86), "enlarged", FAINT, 13)
    pen.line((MARGIN, 108, WIDTH - MARGIN, 108), RULE)


def _draw_bucket(pen: ImageDraw.ImageDraw, bucket: BucketCount, top: int, most: int, longest: int) -> None:
    high, wide = (max(2, round(side * _ICON / longest)) for side in bucket.size)
    across, down = MARGIN + (_ICON - wide) // 2, top + (LINE - high) // 2
    pen.rectangle((across, down, across + wide, down + high), outline=INK)
    draw_text(pen, (_SIZE, top + 10), f"{bucket.size[0]} x {bucket.size[1]}", INK, 14)
    parts = [(bucket.pictures - bucket.enlarged, _FULL), (bucket.enlarged, _ENLARGED)]
    _draw_bar(pen, top, parts, most)
    draw_text(pen, (_COUNT, top + 10), f"{bucket.pictures:,}", INK, 14)
    last = f", last: {bucket.last:,}" if bucket.last else ""
    draw_text(
        pen, (_BATCHES, top + 10), f"{bucket.batches:,} x {bucket.samples:,}{last}", FAINT, 14, _CUT - _BATCHES - 8
    )
    room = WIDTH - MARGIN - _CUT - 110
    pen.rectangle((_CUT, top + 13, _CUT + room, top + 24), outline=RULE)
    pen.rectangle((_CUT, top + 13, _CUT + round(room * bucket.cut_mean), top + 24), fill=_CUT_INK)
    mark = _CUT + round(room * bucket.cut_p95)
    pen.line((mark, top + 10, mark, top + 27), INK, 2)
    draw_text(pen, (_CUT + room + 10, top + 10), f"{bucket.cut_mean:.1%}, {bucket.cut_p95:.1%}", INK, 14)


def _draw_bar(pen: ImageDraw.ImageDraw, top: int, parts: list[tuple[int, tuple[int, int, int]]], most: int) -> None:
    left, room = float(_BAR), _COUNT - _BAR - 12
    for number, ink in parts:
        length = number * room / most
        if length:
            pen.rectangle((round(left), top + 8, max(round(left) + 1, round(left + length)), top + 29), fill=ink)
        left += length


def _with_share(number: int, counts: BucketCounts) -> str:
    return f"{number:,}, {number / (counts.pictures + sum(counts.lost.values())):.1%} of all"
