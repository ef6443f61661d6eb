"""Are damaged and doubled EXIF blocks taken alike by both back ends, and do they leave their neighbours alone?

    python -m tests.long.odd_exif [--files 4000] [--batches 2000] [--seed 0]

First, each file is decoded by both back ends, whole and cropped, and compared with Pillow's `ImageOps.exif_transpose`.
Then DALI decodes batches of 64 odd files and 64 good ones. The gates: no file is turned otherwise than Pillow turns
it, no good file changes by a byte, no crash. It prints what it found and exits with 1 where a gate is missed.

To have the C library look for writes outside of what was allocated, add in front:
    MALLOC_CHECK_=3 MALLOC_PERTURB_=165 LD_PRELOAD=libc_malloc_debug.so.0
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datago_gpu import LoaderConfig
from datago_gpu.decode.base import Decoder, EncodedImages
from datago_gpu.decode.decoders import make_decoder
from datago_gpu.decode.select import choose
from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.grouper import Admitted
from datago_gpu.imaging.orientation import upright_image
from datago_gpu.sources.base import SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from tests.long.exif_blocks import odd_files

BATCH = 64
APART = 8.0
"""Levels at the mean. A picture that is turned otherwise is further off than 40."""


def settings(*, crop: bool) -> LoaderConfig:
    image = {"crop_and_resize": crop, "default_image_size": 32, "downsampling_ratio": 16, "mixed_buckets": crop}
    return LoaderConfig.load({
        "source_type": "file", "source_config": {"root_path": "/"}, "image_config": image,
        "decode_config": {"threads": 2}, "batch_size": 2 * BATCH,
    })  # fmt: skip


def corners() -> bytes:
    """A JPEG whose corners tell how it is turned."""
    pixels = np.full((24, 40, 3), 128, np.uint8)
    pixels[:12, :20], pixels[:12, 20:], pixels[12:, :20] = (230, 30, 30), (30, 200, 30), (40, 40, 220)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


class Backend:
    """A back end, fed as the feeder feeds it."""

    def __init__(self, name: str, *, crop: bool) -> None:
        config = settings(crop=crop)
        self._admission = Admission(config)
        self._decoder: Decoder = make_decoder(
            choose("cpu", name), config.image_config, config.decode_config, config.batch_size
        )

    def admit(self, payload: bytes) -> Admitted:
        ref = SampleRef(0, SampleInfo(""), path="odd.jpg")
        outcome = self._admission.quick(ref, payload) or self._admission.thorough(ref, payload)
        assert isinstance(outcome, Admitted), outcome
        return outcome

    def decode(self, admitted: list[Admitted]) -> list[Any]:
        buckets = [sample.bucket for sample in admitted]
        self._decoder.submit(
            EncodedImages(
                payloads=[np.frombuffer(sample.payload, np.uint8) for sample in admitted],
                sizes=np.array([sample.size for sample in admitted], np.int32),
                regions=np.array([sample.region for sample in admitted], np.float32),
                orientations=np.array([sample.orientation for sample in admitted], np.uint8),
                target=None,
                targets=None if buckets[0] is None else np.array(buckets, np.int32),
            )
        )
        decoded = self._decoder.collect()
        assert not decoded.failures, decoded.failures
        return list(decoded.image)

    def close(self) -> None:
        self._decoder.close()


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


def batches(count: int, seed: int) -> Iterator[list[tuple[str, bytes]]]:
    """Batches of odd files."""
    files = list(odd_files(corners(), count, seed))
    for at in range(0, len(files), BATCH):
        yield files[at : at + BATCH]


def turned_otherwise(count: int, seed: int) -> list[str]:
    """Names of the files that a back end turns otherwise than Pillow, or than the other back end."""
    wrong, kinds = [], Counter[str]()
    whole = {name: Backend(name, crop=False) for name in ("pillow", "dali")}
    cut = {name: Backend(name, crop=True) for name in ("pillow", "dali")}
    for files in batches(count, seed):
        admitted = [whole["dali"].admit(payload) for _, payload in files]
        kinds.update("rewritten" if sample.payload != payload else "untouched"
                     for sample, (_, payload) in zip(admitted, files, strict=True))  # fmt: skip
        shown = {name: backend.decode(admitted) for name, backend in whole.items()}
        admitted = [cut["dali"].admit(payload) for _, payload in files]
        seen = {name: backend.decode(admitted) for name, backend in cut.items()}
        for row, (name, payload) in enumerate(files):
            expected = as_pillow_turns(payload)
            expected = shown["pillow"][row] if expected is None else expected
            far = [apart(shown[backend][row], expected) for backend in shown]
            if max(*far, apart(seen["dali"][row], seen["pillow"][row])) > APART:
                wrong.append(name)
    for backend in (*whole.values(), *cut.values()):
        backend.close()
    print(f"{count} files ({kinds['untouched']} given to DALI as they are): {len(wrong)} turned otherwise", *wrong[:20])
    return wrong


def changed_neighbours(count: int, seed: int) -> int:
    """How many good files came with other pixels than alone, in so many batches."""
    rng, backend, good = random.Random(seed), Backend("dali", crop=False), corners()
    alone = backend.decode([backend.admit(good)])[0].copy()
    pool = [backend.admit(payload) for files in batches(4000, seed + 1) for _, payload in files]
    neighbour, changed = backend.admit(good), 0
    for _ in range(count):
        rows = [neighbour] * BATCH + rng.sample(pool, BATCH)
        order = list(range(2 * BATCH))
        rng.shuffle(order)
        images = backend.decode([rows[at] for at in order])
        changed += sum(at < BATCH and not np.array_equal(images[place], alone) for place, at in enumerate(order))
    backend.close()
    print(f"{count} batches of {BATCH} odd and {BATCH} good files: {changed} good ones changed")
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
