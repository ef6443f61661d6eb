"""Flips: a mirrored sample is the exact mirror image of what it would be without, in all forms, on all back ends.

That decode processes give what threads give, mirrored samples included, is a test of decode processes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datago_gpu import Batch, Loader
from datago_gpu.decoders.select import Backend
from tests.support.made.png import png
from tests.support.pictures import encode, on_host, oriented_jpeg, picture
from tests.support.shards import tar_bytes

SIZES = [(40, 50), (64, 90), (120, 33), (70, 70)]
COUNT = 24


def files_of(number: int) -> dict[str, bytes]:
    """A picture of one of many kinds, a mask (every fifth has labels of 16 bits), and another picture."""
    pixels = picture(*SIZES[number % len(SIZES)], seed=number)
    labels = (pixels[:, :, :1] // 40).astype(np.uint16)
    kinds = [
        encode(pixels, "JPEG", quality=90),
        encode(pixels),
        oriented_jpeg(pixels, 1 + number % 8),
        encode(np.dstack([pixels, pixels[:, :, :1]])),
        encode(pixels, "WEBP", lossless=True),
        png(pixels[:, :, :1].astype(np.uint16) * 257, 16),
    ]
    mask = png(labels + 1000, 16) if number % 5 == 0 else encode(labels[:, :, 0].astype(np.uint8))
    return {"jpg": kinds[number % len(kinds)], "seg.png": mask, "other.jpg": encode(pixels[::-1], "JPEG")}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    path.write_bytes(tar_bytes([(f"{n:02}.{name}", data) for n in range(COUNT) for name, data in files_of(n).items()]))
    return path


def load(shard: Path, backend: Backend, image: dict[str, Any], **more: Any) -> list[Batch]:
    config = {
        "source_type": "webdataset",
        "source_config": {"url": str(shard), "masks": "seg.png", "additional_images": "other.jpg"},
        "image_config": {"default_image_size": 64, "downsampling_ratio": 16, **image},
        "decode_config": {"processes": 0, "threads": 1},
        "batch_size": 5,
        **more,
    }
    with Loader(config, device=backend.device, backend=backend.name) as loader:
        return list(loader)


FORMS: dict[str, dict[str, Any]] = {
    "dense": {"crop_and_resize": True},
    "normalised": {"crop_and_resize": True, "layout": "CHW", "dtype": "float16", "mean": [0.5] * 3, "std": [0.2] * 3},
    "int32 masks": {"crop_and_resize": True, "mask_dtype": "int32", "layout": "CHW"},
    "whole": {},
    "mixed": {"crop_and_resize": True, "mixed_buckets": True, "mask_interpolation": "lanczos"},
    "own": {"crop_and_resize": True, "image_to_rgb8": False},
    "png": {"crop_and_resize": True, "pre_encode_images": True},
}


def pixels_of(value: Any, layout: str) -> np.ndarray:
    """One picture, as (H, W, C)."""
    if isinstance(value, bytes):
        return np.atleast_3d(np.asarray(Image.open(io.BytesIO(value))))
    array = on_host(value)
    return array.transpose(1, 2, 0) if layout == "CHW" else array


@pytest.mark.parametrize("form", FORMS)
def test_a_flipped_sample_is_the_mirror_image(shard: Path, backend: Backend, form: str) -> None:
    image, layout = FORMS[form], FORMS[form].get("layout", "HWC")
    plain, mirrored = load(shard, backend, image), load(shard, backend, image | {"flip": 0.5})
    assert [batch.ids for batch in plain] == [batch.ids for batch in mirrored]
    flips = np.concatenate([batch.flipped for batch in mirrored])
    assert 3 < flips.sum() < COUNT - 3
    assert not any(batch.flipped.any() for batch in plain)
    for one, other in zip(plain, mirrored, strict=True):
        assert np.array_equal(one.crops, other.crops)
        for before, after in zip(one, other, strict=True):
            pairs = [(before.image, after.image)]
            pairs += [(before.masks["seg.png"], after.masks["seg.png"])]
            pairs += [(before.additional_images["other.jpg"], after.additional_images["other.jpg"])]
            for plain_one, shown in pairs:
                expected, found = pixels_of(plain_one, layout), pixels_of(shown, layout)
                assert found.dtype == expected.dtype
                assert np.array_equal(found, expected[:, ::-1] if after.flipped else expected)


def test_which_samples_are_flipped_depends_on_seed_epoch_and_id_alone(shard: Path, backend: Backend) -> None:
    def flips(**more: Any) -> dict[str, list[bool]]:
        found: dict[str, list[bool]] = {}
        for batch in load(shard, backend, {"crop_and_resize": True, "flip": 0.5}, epochs=2, **more):
            for sample in batch:
                found.setdefault(sample.id, []).append(sample.flipped)
        return found

    expected = flips()
    assert flips(batch_size=3, decode_config={"threads": 2, "processes": 0}) == expected
    assert any(one != other for one, other in expected.values())
    assert flips(seed=1) != expected


@pytest.mark.parametrize("views", [None, [{}, {"default_image_size": 32}]], ids=["one view", "two views"])
def test_a_source_of_a_mix_flips_for_itself(tmp_path: Path, backend: Backend, views: Any) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encode(picture(64, 64, seed=number)))
    source = {"source_type": "file", "source_config": {"root_path": str(tmp_path)}}
    sources = [{"name": "mirrored", **source, "image_config": {"flip": 1.0}}, {"name": "plain", **source}]
    image = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16, "views": views}
    config = {"source_type": "mix", "source_config": {"sources": sources}, "image_config": image}
    with Loader(config, device=backend.device, backend=backend.name) as loader:
        (batch,) = loader
    assert batch.mix == ["mirrored", "plain"] * 3
    for view, flipped in zip(batch.views, batch.view_flipped, strict=True):
        assert flipped.tolist() == [True, False] * 3
        shown = on_host(view)
        assert np.array_equal(shown[::2], shown[1::2, :, ::-1])
