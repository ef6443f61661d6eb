"""Data for the examples: small pictures cut at random from the photographs that ship with the package, with captions.

Your own training needs none of this: it has data.
"""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import torch.distributed as dist
from PIL import Image, ImageOps

import datago_gpu

PHOTOS = sorted(Path(datago_gpu.__file__).parent.joinpath("photos").glob("*.[jp][pn]g"))
SHAPES = [(96, 96), (96, 128), (128, 96)]


def folder_of_pictures(folder: Path, count: int) -> Path:
    """Returns a folder with a subfolder for each photograph. Each JPEG has its caption beside it, in NAME.txt."""
    if _rank() == 0:
        rng = random.Random(0)
        photos = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in PHOTOS]
        for number in range(count):
            path, photo = PHOTOS[number % len(PHOTOS)], photos[number % len(PHOTOS)]
            _cut(photo, folder / path.stem / f"{number:05}.jpg", f"a photograph of {path.stem.replace('-', ' ')}", rng)
    _wait_for_all()
    return folder


def shards_of_pictures(folder: Path, count: int, shards: int = 4) -> str:
    """Returns the address of tar shards in which each sample is a JPEG and a text."""
    pictures = folder_of_pictures(folder / "pictures", count)
    if _rank() == 0:
        paths = sorted(pictures.glob("*/*.jpg"), key=lambda path: path.stem)
        for shard in range(shards):
            with tarfile.open(folder / f"{shard:03}.tar", "w") as tar:
                for path in paths[shard::shards]:
                    tar.add(path, path.name)
                    tar.add(path.with_suffix(".txt"), f"{path.stem}.txt")
    _wait_for_all()
    return str(folder / f"{{000..{shards - 1:03}}}.tar")


def _cut(photo: Image.Image, path: Path, caption: str, rng: random.Random) -> None:
    height, width = rng.choice(SHAPES)
    scale = min(photo.height / height, photo.width / width) * rng.uniform(0.3, 0.8)
    left, top = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    box = (left, top, left + width * scale, top + height * scale)
    photo.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2).save(path)
    path.with_suffix(".txt").write_text(caption)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
