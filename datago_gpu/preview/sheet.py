"""Draws the preview as one image: a section for each batch, with cards in rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from datago_gpu.errors import ConfigError
from datago_gpu.preview.gather import Overview, ShownBatch, ShownSample
from datago_gpu.preview.masks import colour_of
from datago_gpu.preview.notes import SIZES_NOTE, crop_note, heading, mask_note, size_note, skipped_note
from datago_gpu.preview.pictures import CROP_INK
from datago_gpu.preview.text import shorten, shorten_middle

__all__ = ["FAINT", "INK", "PAPER", "RULE", "TALLEST", "draw_text", "write_sheet"]

WIDTH = 1680
GAP, INSET, BETWEEN = 16, 10, 6
"""Pixels between cards, inside a card, between the pictures of one."""
NARROWEST = 230
LINE = 17
CAPTION_LINES = 2
TALLEST = 60_000
_LONGEST = 400
"""Maximum number of characters of a line that are measured: no line has room for more."""
_FONTS = ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "LiberationSans-Regular.ttf")
PAPER, CARD, INK, FAINT, RULE = (244, 243, 240), (255, 255, 255), (28, 28, 30), (118, 118, 122), (214, 212, 207)


def write_sheet(overview: Overview, path: Path) -> None:
    """Writes a PNG. Raises ConfigError if it would be too tall, OSError if it cannot be written."""
    rows = [(batch, _rows(batch.samples)) for batch in overview.batches]
    top = _header_height(overview)
    height = top + GAP + sum(_section_height(cards) for _, cards in rows)
    if height > TALLEST:
        raise ConfigError(f"a PNG of {height:,} rows is too tall: show fewer batches or samples, or write .html")
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_header(pen, overview)
    for batch, cards in rows:
        _draw_section(sheet, pen, batch, cards, top)
        top += _section_height(cards)
    sheet.save(path, "PNG")


Row = list[ShownSample]


def _rows(samples: list[ShownSample]) -> list[Row]:
    """Arranges cards in rows, with as many cards per row as fit, and at least one."""
    rows: list[Row] = []
    room = 0
    for sample in samples:
        width = _card_size(sample)[0] + GAP
        if width > room:
            rows.append([])
            room = WIDTH - GAP
        rows[-1].append(sample)
        room -= width
    return rows


def _card_size(sample: ShownSample) -> tuple[int, int]:
    """Returns the (width, height) of a card. A card that is too wide is cut at the edge of the sheet."""
    pictures = sum(panel.picture.width for panel in sample.panels) + BETWEEN * (len(sample.panels) - 1)
    tallest = max(panel.picture.height for panel in sample.panels)
    width = min(max(pictures, NARROWEST) + 2 * INSET, WIDTH - 2 * GAP)
    lines = 1 + 1 + len(_caption_lines(sample.caption, width - 2 * INSET)) + bool(sample.tags)
    return width, INSET + LINE + tallest + 6 + lines * LINE + INSET


def _row_height(row: Row) -> int:
    return max(_card_size(sample)[1] for sample in row)


def _section_height(rows: list[Row]) -> int:
    return 44 + sum(_row_height(row) + GAP for row in rows)


def _header_height(overview: Overview) -> int:
    return 96 + (LINE + 8 if overview.masks else 0)


def _draw_header(pen: ImageDraw.ImageDraw, overview: Overview) -> None:
    pen.text((GAP, 16), "datago-gpu preview", INK, _font(26))
    line = f"{overview.title}  ·  {overview.backend}  ·  {SIZES_NOTE}{skipped_note(overview)}"
    pen.text((GAP, 50), _fit_text(line, 14, WIDTH - 2 * GAP), FAINT, _font(14))
    left, top = GAP, 74
    pen.rectangle((left, top + 3, left + 12, top + 13), outline=CROP_INK, width=2)
    pen.text((left + 20, top), crop_note(overview), FAINT, _font(13))
    top += LINE + 4
    for number, name in enumerate(overview.masks):
        pen.rectangle((left, top + 3, left + 12, top + 13), fill=colour_of(number))
        label = mask_note(overview, name)
        pen.text((left + 20, top), label, INK, _font(13))
        left += 44 + int(_font(13).getlength(label))


def _draw_section(sheet: Image.Image, pen: ImageDraw.ImageDraw, batch: ShownBatch, rows: list[Row], top: int) -> None:
    pen.line((GAP, top + 6, WIDTH - GAP, top + 6), RULE)
    name, note = heading(batch)
    pen.text((GAP, top + 14), name, INK, _font(18))
    pen.text((GAP + 14 + int(_font(18).getlength(name)), top + 18), note, FAINT, _font(14))
    top += 44
    for row in rows:
        widths = [_card_size(sample)[0] + GAP for sample in row]
        height = _row_height(row)
        for sample, left in zip(row, accumulate(widths, initial=GAP), strict=False):
            _draw_card(sheet, pen, sample, (left, top, left + _card_size(sample)[0], top + height))
        top += height + GAP


def _draw_card(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, sample: ShownSample, box: tuple[int, int, int, int]
) -> None:  # fmt: skip
    left, top, right, _ = box
    pen.rounded_rectangle(box, 8, CARD, RULE)
    across, top = left + INSET, top + INSET
    for panel in sample.panels:
        room = right - INSET - across
        if room <= 0:
            break
        pen.text((across, top), _fit_text(panel.name, 11, min(room, panel.picture.width)), FAINT, _font(11))
        sheet.paste(panel.picture.crop((0, 0, min(room, panel.picture.width), panel.picture.height)),
                    (across, top + LINE))  # fmt: skip
        across += panel.picture.width + BETWEEN
    down = top + LINE + max(panel.picture.height for panel in sample.panels) + 6
    room = right - left - 2 * INSET
    lines = [(_fit_text(sample.id, 14, room, shorten_middle), INK, 14), (size_note(sample), FAINT, 12)]
    lines += [(line, INK, 13) for line in _caption_lines(sample.caption, room)]
    if sample.tags:
        lines.append((_fit_text("# " + ", ".join(sample.tags), 12, room), FAINT, 12))
    for line, ink, size in lines:
        pen.text((left + INSET, down), line, ink, _font(size))
        down += LINE


@cache
def _caption_lines(caption: str, room: int) -> list[str]:
    """Wraps a caption at words and cuts off its end."""
    words, lines = shorten(caption, _LONGEST).split(), [""]
    for at, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if _font(13).getlength(longer) <= room:
            lines[-1] = longer
        elif len(lines) == CAPTION_LINES or not lines[-1]:
            lines[-1] = _fit_text(" ".join([lines[-1], *words[at:]]).strip(), 13, room)
            break
        else:
            lines.append(_fit_text(word, 13, room))
    return lines if words else []


def _fit_text(text: str, size: int, room: float, cut: Callable[[str, int], str] = shorten) -> str:
    """Shortens a text until it fits into `room`."""
    text = cut(text, _LONGEST)
    if _font(size).getlength(text) <= room:
        return text
    length = bisect_right(range(1, len(text)), room, key=lambda count: _font(size).getlength(cut(text, count)))
    return cut(text, max(1, length))


def draw_text(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    ink: tuple[int, int, int],
    size: int,
    room: float | None = None,
) -> None:
    """Draws a line of text, shortened to `room` pixels."""
    pen.text(place, text if room is None else _fit_text(text, size, room), ink, _font(size))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns a font. Pillow's own font, which has little beyond ASCII, is used only if there is no other."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
