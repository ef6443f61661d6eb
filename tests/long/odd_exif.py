"""Are damaged and doubled EXIF blocks taken alike by both back ends, and do they leave their neighbours alone?

    python -m tests.long.odd_exif [--files 4000] [--batches 2000] [--seed 0]

First, both back ends load each file, whole and cropped, and are compared with Pillow's `ImageOps.exif_transpose`. Then
DALI loads batches of 128 files, half of them odd and half of them good. The gates: no file is turned otherwise than
Pillow turns it, no good file changes by a byte, no crash. It prints what it found and exits with 1 where a gate is
missed.

To have the C library look for writes outside of what was allocated, add in front:
    MALLOC_CHECK_=3 MALLOC_PERTURB_=165 LD_PRELOAD=libc_malloc_debug.so.0
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datago_gpu import Loader
from datago_gpu.batch import Sample
from datago_gpu.imaging.header import read_header
from datago_gpu.imaging.orientation import upright_image
from tests.long.exif_blocks import odd_files
from tests.support.pictures import encode

BATCH = 128
BACKENDS = ("pillow", "dali")
APART = 8.0
"""Levels at the mean. A picture that is turned otherwise is further off than 40."""


def corners() -> bytes:
    """A JPEG whose corners tell how it is turned."""
    pixels = np.full((24, 40, 3), 128, np.uint8)
    pixels[:12, :20], pixels[:12, 20:], pixels[12:, :20] = (230, 30, 30), (30, 200, 30), (40, 40, 220)
    return encode(pixels, "JPEG", quality=95, subsampling=0)


def load(files: Iterable[tuple[str, bytes]], backend: str, *, crop: bool = False, **more: Any) -> Iterator[Sample]:
    """What a loader makes of these files, in a folder of their own. more: settings; "source" adds to the source's."""
    with tempfile.TemporaryDirectory() as folder:
        for name, payload in files:
            Path(folder, name).write_bytes(payload)
        config = {
            "source_type": "file", "source_config": {"root_path": folder, **more.pop("source", {})},
            "image_config": {"crop_and_resize": crop, "default_image_size": 32, "downsampling_ratio": 16},
            "decode_config": {"threads": 2}, "batch_size": BATCH, "max_failures": 0, **more,
        }  # fmt: skip
        with Loader(config, device="cpu", backend=backend) as loader:
            yield from loader.samples()


def as_pillow_turns(payload: bytes) -> Any:
    """The picture as `exif_transpose` shows it; as it is stored where Pillow gives up on the EXIF.

    None for the one file in 10,000 that Pillow does not even open: it looks for a resolution in the EXIF, and fails.
    """
    warnings.simplefilter("ignore")
    try:
        file = Image.open(io.BytesIO(payload))
    except UnidentifiedImageError:
        return None
    with file as stored:
        try:
            shown = ImageOps.exif_transpose(stored)
        except Exception:  # of many kinds, most of them when the rest of the EXIF is written again
            shown = upright_image(stored, stored.getexif().get(0x0112, 1))
        return np.asarray(shown.convert("RGB"))


def apart(one: Any, other: Any) -> float:
    """The mean difference in levels; infinite for pictures of two shapes."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one.astype(np.int16) - other).mean())


def turned_otherwise(count: int, seed: int) -> list[str]:
    """Names of the files that a back end turns otherwise than Pillow, or than the other back end."""
    files = {f"{name}.jpg": payload for name, payload in odd_files(corners(), count, seed)}
    whole, cut = (
        [{each.id: np.array(each.image) for each in load(files.items(), backend, crop=crop)} for backend in BACKENDS]
        for crop in (False, True)
    )
    wrong, untouched = [], 0
    for name, payload in files.items():
        untouched += read_header(payload).tidy(payload) is payload
        pillow, dali = (shown[name] for shown in whole)
        expected = as_pillow_turns(payload)
        expected = pillow if expected is None else expected
        if max(apart(pillow, expected), apart(dali, expected), apart(*(shown[name] for shown in cut))) > APART:
            wrong.append(name)
    print(f"{count} files ({untouched} given to DALI as they are): {len(wrong)} turned otherwise", *wrong[:20])
    return wrong


def changed_neighbours(count: int, seed: int) -> int:
    """How many good files came with other pixels than alone, in so many batches."""
    good, changed = corners(), 0
    (alone,) = (np.array(each.image) for each in load([("good.jpg", good)], "dali"))
    odd = [(f"{name}.jpg", payload) for name, payload in odd_files(good, min(4000, count * BATCH // 2), seed + 1)]
    files = [*odd, *((f"{number:05}-neighbour.jpg", good) for number in range(len(odd)))]
    for sample in load(files, "dali", source={"random_sampling": True}, epochs=None, limit=count * BATCH):
        changed += sample.id.endswith("-neighbour.jpg") and not np.array_equal(np.array(sample.image), alone)
    print(f"{count} batches of {BATCH} files, half of them odd: {changed} good ones changed")
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    wrong, changed = turned_otherwise(args.files, args.seed), changed_neighbours(args.batches, args.seed)
    sys.exit(1 if wrong or changed else 0)


if __name__ == "__main__":
    main()
