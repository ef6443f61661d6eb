"""Draws docs/pictures/buckets.jpg: photographs with their crops framed, and the batches that the crops go to.

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
PLACES = {"otters.jpg": (0, 0), "astronaut.jpg": (0, 1), "anhinga.jpg": (568, 1)}
"""The photographs whose originals are shown -> left edge in pixels, and row."""
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
TITLE = "Original, its crop, and the batch of its bucket: one array, without padding"
WIDTH, ROW, HEAD, WORDS, MARGIN, GAP = 1200, 244, 62, 46, 24, 12
"""Pixels: the picture is WIDTH wide; a row is ROW high, the title HEAD, and the words above a row's images WORDS."""
ORIGINAL, TILE, ARROW = (236, 170), 140, 76
"""The most that an original takes; the side of a tile if it were a square; the room of the arrow between them."""
PAPER, INK, FAINT, FRAME = (255, 255, 255), (31, 35, 40), (89, 99, 110), (207, 34, 46)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".jpg")
    draw().save(out, "JPEG", quality=88)


def draw() -> Image.Image:
    """Returns the picture."""
    with Loader(CONFIG, device="cpu", backend="pillow") as loader:
        batches = {name: batch for batch in loader for name in batch.ids}
    sheet = Image.new("RGB", (WIDTH, HEAD + 2 * ROW), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 18), TITLE, INK, _font(30))
    for name, (left, row) in PLACES.items():
        batch = batches[name]
        _draw_block(sheet, pen, (MARGIN + left, HEAD + row * ROW), batch, batch.ids.index(name))
    return sheet


def _draw_block(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], batch: Batch, first: int
) -> None:
    """Draws an original, an arrow, and the images of its batch beside it, as far as there is room."""
    left, top = corner
    original, middle = _framed(batch, first), top + WORDS + ORIGINAL[1] // 2
    pen.text((left, top + 8), _shape(batch), FAINT, _font(24))
    sheet.paste(original, (left, middle - original.height // 2))
    left += original.width + ARROW
    pen.line((left - 62, middle, left - 28, middle), FAINT, 5)
    pen.polygon([(left - 30, middle - 12), (left - 12, middle), (left - 30, middle + 12)], FAINT)
    for index in [first, *(other for other in range(len(batch)) if other != first)]:
        tile = _tile(batch.image[index])
        if left + tile.width > WIDTH - MARGIN - GAP:
            pen.text((left, middle - 16), "...", FAINT, _font(26))
            break
        place = left, middle - tile.height // 2
        sheet.paste(tile, place)
        if index == first:
            pen.rectangle((*place, left + tile.width - 1, place[1] + tile.height - 1), outline=FRAME, width=5)
        left += tile.width + GAP


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
    return f"{len(batch)} images, {width} wide x {height} high: {batch.image.shape}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


if __name__ == "__main__":
    main()
