"""Draws docs/pictures/buckets.jpg: a photograph of each bucket with its crop framed, and the batch that the crop goes to.

    python docs/pictures/buckets.py [PATH.jpg]

The pixels, the crops and the shapes are those of a real Loader, on the photographs that ship with the package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

import datago_gpu
from datago_gpu import Batch, Loader

PHOTOS = Path(datago_gpu.__file__).parent / "photos"
FIRST = ("otters.jpg", "astronaut.jpg", "anhinga.jpg")
"""The photographs whose originals are shown."""
CONFIG: dict[str, Any] = {
    "source_type": "file",
    "source_config": {"root_path": str(PHOTOS), "extensions": "jpg"},
    "image_config": {
        "crop_and_resize": True,
        "buckets": [[256, 384], [320, 320], [384, 256]],
        "crop": "random_resized",
        "crop_scale": [0.5, 0.9],
    },
    "batch_size": 16,
    "seed": 3,
}
WIDTH, MARGIN, GAP = 1200, 24, 12
ORIGINAL, TILE = (264, 190), 150
"""The most that an original takes, in pixels; the side of a tile if it were a square."""
ROW, HEAD, WORDS = 236, 64, 34
"""Heights: of a row, of the title, and of the words above the pictures of a row."""
SHOWN = 5
"""Images shown of a batch."""
PAPER, INK, FAINT, FRAME = (255, 255, 255), (31, 35, 40), (89, 99, 110), (207, 34, 46)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".jpg")
    draw().save(out, "JPEG", quality=88)


def draw() -> Image.Image:
    """Returns the picture."""
    with Loader(CONFIG, device="cpu", backend="pillow") as loader:
        batches = list(loader)
    sheet = Image.new("RGB", (WIDTH, HEAD + len(FIRST) * ROW), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 18), "Original, with the crop", INK, _font(26))
    pen.text((MARGIN + ORIGINAL[0] + 70, 18), "Batch of its bucket: one array, no padding", INK, _font(26))
    for row, name in enumerate(FIRST):
        (batch,) = (batch for batch in batches if name in batch.ids)
        _draw_row(sheet, pen, HEAD + row * ROW, batch, batch.ids.index(name))
    return sheet


def _draw_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int, batch: Batch, first: int) -> None:
    original = _framed(batch, first)
    middle, left = top + WORDS + ORIGINAL[1] // 2, MARGIN + ORIGINAL[0] + 70
    sheet.paste(original, (MARGIN + (ORIGINAL[0] - original.width) // 2, middle - original.height // 2))
    pen.text((left, top), _shape(batch), FAINT, _font(22))
    pen.line((left - 56, middle, left - 24, middle), FAINT, 5)
    pen.polygon([(left - 28, middle - 12), (left - 10, middle), (left - 28, middle + 12)], FAINT)
    for index in [first, *(other for other in range(len(batch)) if other != first)][:SHOWN]:
        tile = _tile(batch.image[index])
        place = left, middle - tile.height // 2
        sheet.paste(tile, place)
        if index == first:
            pen.rectangle((*place, left + tile.width - 1, place[1] + tile.height - 1), outline=FRAME, width=5)
        left += tile.width + GAP
    if len(batch) > SHOWN:
        pen.text((left, middle - 16), "...", FAINT, _font(26))


def _framed(batch: Batch, index: int) -> Image.Image:
    """Returns the original of a sample, small, with a frame around what its crop shows and the rest paler."""
    photo = ImageOps.exif_transpose(Image.open(PHOTOS / batch.ids[index])).convert("RGB")
    scale = min(ORIGINAL[0] / photo.width, ORIGINAL[1] / photo.height)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
    top, left, height, width = (round(float(side) * scale) for side in batch.crops[index])
    box = left, top, left + width, top + height
    pale = Image.blend(photo, Image.new("RGB", photo.size, PAPER), 0.6)
    pale.paste(photo.crop(box), box)
    ImageDraw.Draw(pale).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=FRAME, width=5)
    return pale


def _tile(pixels: Any) -> Image.Image:
    picture = Image.fromarray(pixels)
    scale = TILE / (picture.width * picture.height) ** 0.5
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def _shape(batch: Batch) -> str:
    """Returns the shape of the batch in words."""
    height, width = batch.image.shape[1:3]
    return f"batch.image: {batch.image.shape}, {width} pixels wide and {height} high"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


if __name__ == "__main__":
    main()
