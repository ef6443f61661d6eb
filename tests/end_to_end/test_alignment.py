"""Arrays of a batch on the CPU begin at a multiple of 64 bytes, so that JAX need not copy them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datago_gpu import Batch, Loader, Row
from datago_gpu.units import ALIGNMENT
from tests.support.images import small_jpeg

SIZES = [(40, 40), (30, 60), (40, 40), (60, 30)] * 5
"""Of the pictures: three buckets, some of whose batches are short."""


def png(height: int, width: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 77 if mode == "L" else (9, 80, 160)).save(file, "PNG")
    return file.getvalue()


def rows() -> list[Row]:
    """Rows with all that a batch can hold. Every seventh picture is damaged where only its decoder notices that."""
    latent = io.BytesIO()
    np.save(latent, np.ones((3, 5), np.float16))
    whole = small_jpeg()
    made = []
    for number, (height, width) in enumerate(SIZES):
        bad = number % 7 == 3
        image = whole[: len(whole) // 2] if bad else png(height, width)
        masks, vae, more = {"seg": png(height, width, "L")}, {"vae": latent.getvalue()}, {"depth": png(height, width)}
        made.append(Row(str(number), image, label=number, masks=masks, latents=vae, additional_images=more))
    return made


def arrays_of(batch: Batch) -> dict[str, Any]:
    views = {f"view {number}": image for number, image in enumerate(batch.views)}
    named = {**batch.masks, **batch.additional_images, **batch.latents}
    return views | named | {"labels": batch.labels}


@pytest.mark.parametrize(
    ("backend", "processes", "image"),
    [
        ("pillow", 1, {"dtype": "bfloat16", "layout": "CHW"}),
        ("pillow", 0, {"dtype": "float16", "views": [{}, {"default_image_size": 32}]}),
        ("dali", 0, {"views": [{}, {"default_image_size": 48}]}),
    ],
)
def test_every_array_of_every_batch_is_aligned(
    backend: str, processes: int, image: dict[str, Any], tmp_path: Path
) -> None:
    """Also those that leave out a damaged picture, and those for which the shared memory has no room."""
    config = {
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16, **image},
        "decode_config": {"processes": processes, "threads": 2 if backend == "dali" else None, "prefetch": 1},
        "samples_buffer_size": 1,
        "batch_size": 3,
    }
    with Loader(config, "cpu", backend, source=rows()) as loader:
        batches = list(loader)  # kept, all at once
    assert sum(map(len, batches)) == sum(number % 7 != 3 for number in range(len(SIZES)))
    for batch in batches:
        found = arrays_of(batch)
        assert {name: value is None for name, value in found.items()} == dict.fromkeys(found, False)
        assert {name: value.ctypes.data % ALIGNMENT for name, value in found.items()} == dict.fromkeys(found, 0)
