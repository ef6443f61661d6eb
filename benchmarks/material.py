"""Photographs to measure with, cut from the ones that ship with the package (or from a folder of your own).

    python -m benchmarks.material OUT --count 500 --pixels 500px
    python -m benchmarks.material OUT --count 100 --pixels 2.5mp --photos ~/large_photographs

"500px" pictures have a long side of 500 pixels; "1mp", "2.5mp" and "8mp" about so many megapixels. Each is a different
cut, mirrored or not, of a photograph that is at least as large (8mp: enlarged, unless --photos has large ones), saved
as JPEG of quality 85, 4:2:0. The same arguments make the same pictures.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

import datago_gpu

SHIPPED = Path(datago_gpu.__file__).parent / "photos"
PIXELS = {"500px": 0.17e6, "1mp": 1e6, "2.5mp": 2.5e6, "8mp": 8e6}
ASPECTS = (3 / 2, 4 / 3, 1.0, 3 / 4, 2 / 3, 16 / 9)


def make(out: Path, count: int, pixels: str, photos: Path = SHIPPED) -> Path:
    """Fills the folder `out` with `count` JPEGs, unless it holds as many; returns it."""
    out.mkdir(parents=True, exist_ok=True)
    if len(list(out.glob("*.jpg"))) == count:
        return out
    area = PIXELS[pixels]
    originals = _originals(photos, area)

    def save(number: int) -> None:
        picture = _cut(originals[number % len(originals)], area, random.Random(number))
        picture.save(out / f"{number:06d}.jpg", quality=85, subsampling="4:2:0")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:  # Pillow cuts and saves without the GIL
        list(threads.map(save, range(count)))
    return out


def _originals(photos: Path, area: float) -> list[Image.Image]:
    """The photographs that are large enough, else the largest, enlarged."""
    pictures = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in sorted(photos.glob("*.[jp][pn]g"))]
    large = [picture for picture in pictures if picture.width * picture.height >= area * 1.05]
    if large:
        return large
    largest = sorted(pictures, key=lambda picture: picture.width * picture.height)[-2:]
    return [ImageOps.scale(picture, math.sqrt(area * 1.3 / picture.width / picture.height)) for picture in largest]


def _cut(picture: Image.Image, area: float, rng: random.Random) -> Image.Image:
    """A part of the picture with about this area, in an aspect ratio for which there is room."""
    small = area < 0.5e6
    room = picture.width * picture.height
    aspect = rng.choice([a for a in ASPECTS if _fits(picture, area, a)] or [picture.width / picture.height])
    share = rng.uniform(0.5, 1.0) * room if small else min(area * rng.uniform(0.97, 1.03), room)
    wide = min(math.sqrt(share * aspect), picture.width, picture.height * aspect)
    wide, high = int(wide), int(wide / aspect)
    left, top = rng.randint(0, picture.width - wide), rng.randint(0, picture.height - min(high, picture.height))
    part = picture.crop((left, top, left + wide, min(top + high, picture.height)))
    if small:
        part.thumbnail((500, 500), Image.Resampling.LANCZOS)
    return ImageOps.mirror(part) if rng.random() < 0.5 else part


def _fits(picture: Image.Image, area: float, aspect: float) -> bool:
    wide = math.sqrt(area * 1.03 * aspect)
    return wide <= picture.width and wide / aspect <= picture.height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--pixels", choices=PIXELS, default="500px")
    parser.add_argument("--photos", type=Path, default=SHIPPED)
    args = parser.parse_args()
    print(make(args.out, args.count, args.pixels, args.photos))


if __name__ == "__main__":
    main()
