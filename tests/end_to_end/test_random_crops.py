"""Random crops in whole Loaders: a sample has one region in each epoch, whoever loads the sample.

The model test and the tests of lockstep have random crops, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datago_gpu import Batch, Loader
from datago_gpu.decoders.select import Backend
from tests.support.images import file_config
from tests.support.pictures import encode, oriented_jpeg, picture

SHAPES = [(120, 160), (160, 120), (140, 140), (90, 200)]
COUNT = 17
CROPS: dict[str, dict[str, Any]] = {
    "random": {"crop": "random", "flip": 0.5},
    "random_resized": {"crop": "random_resized", "flip": 0.5, "crop_scale": [0.2, 1]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs, turned JPEGs, and BMPs (which the feeder decodes)."""
    root = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        pixels = picture(*SHAPES[number % 4], seed=number)
        kinds = {"png": encode(pixels), "jpg": oriented_jpeg(pixels, 1 + number % 8), "bmp": encode(pixels, "BMP")}
        kind = ("png", "jpg", "bmp")[number % 3]
        (root / f"{number:02}.{kind}").write_bytes(kinds[kind])
    return root


Shown = dict[tuple[str, int], tuple[Any, ...]]
"""Id and epoch -> crop, whether mirrored, and the pixels."""


def shown(batch: Batch) -> Shown:
    return {
        (sample.id, sample.epoch): (sample.crop, sample.flipped, np.asarray(sample.image).copy()) for sample in batch
    }


def load(root: Path, crop: str, backend: str = "pillow", device: str = "cpu", **more: Any) -> Shown:
    config = file_config(root, image=CROPS[crop], decode_config={"processes": 0}, epochs=2, **more)
    found: Shown = {}
    with Loader(config, device=device, backend=backend) as loader:
        for batch in loader:
            found |= shown(batch)
    return found


@pytest.fixture(scope="module")
def usual(root: Path) -> dict[str, Shown]:
    """What each crop shows, with Pillow, on one rank."""
    return {crop: load(root, crop) for crop in CROPS}


def assert_same(one: Shown, other: Shown) -> None:
    assert one.keys() == other.keys()
    for key, (crop, flipped, pixels) in one.items():
        assert other[key][:2] == (crop, flipped), key
        assert np.array_equal(other[key][2], pixels), key


@pytest.mark.parametrize("crop", CROPS)
def test_all_back_ends_show_the_same_region(root: Path, usual: dict[str, Shown], backend: Backend, crop: str) -> None:
    """Within the tolerance of the tests of parity: the pictures are smooth."""
    expected, found = usual[crop], load(root, crop, backend.name, backend.device)
    assert expected.keys() == found.keys()
    assert len(expected) == 2 * COUNT
    for key, (crop_of, flipped, pixels) in expected.items():
        assert found[key][:2] == (crop_of, flipped)
        difference = np.abs(found[key][2].astype(float) - pixels)
        assert difference.mean() <= 2
        assert np.quantile(difference, 0.98) <= 4


@pytest.mark.parametrize("crop", CROPS)
def test_a_region_depends_neither_on_ranks_nor_batches_nor_order(
    root: Path, usual: dict[str, Shown], crop: str
) -> None:
    alone = usual[crop]
    ranks: Shown = {}
    for rank in range(3):
        ranks |= load(root, crop, source={"rank": rank, "world_size": 3}, batch_size=2)
    assert_same(alone, ranks)
    assert_same(alone, load(root, crop, source={"random_sampling": True}, ordered=False))
    crops = {key: value[0] for key, value in alone.items()}
    assert sum(crops[id_, 0] != crops[id_, 1] for id_, _ in crops) > COUNT  # what has the bucket's shape is whole
    assert crops != {key: value[0] for key, value in load(root, crop, seed=1).items()}


def test_a_run_that_goes_on_shows_what_one_shows_that_never_stopped(root: Path, usual: dict[str, Shown]) -> None:
    config = file_config(root, image=CROPS["random_resized"], decode_config={"processes": 0}, epochs=2)
    for taken in (1, 6):
        with Loader(config, device="cpu") as loader:
            before = [shown(next(loader)) for _ in range(taken)]
            state = json.loads(json.dumps(loader.state_dict()))
        with Loader(config, device="cpu", state=state) as loader:
            found = {key: value for some in [*before, *map(shown, loader)] for key, value in some.items()}
        assert_same(usual["random_resized"], found)


def test_the_region_is_that_which_the_pixels_come_from(root: Path) -> None:
    """Each picture is cut and scaled here as `crops` and `flipped` say, by Pillow."""
    files = {path.name: path for path in root.glob("*.png")}
    config = file_config(root, image=CROPS["random_resized"], decode_config={"processes": 0})
    with Loader(config, device="cpu") as loader:
        samples = [sample for batch in loader for sample in batch if sample.id in files]
    assert len(samples) == 6
    for sample in samples:
        top, left, height, width = sample.crop
        whole = Image.open(files[sample.id]).convert("RGB")
        box = (left, top, left + width, top + height)
        cut = whole.resize(sample.image_size[::-1], Image.Resampling.LANCZOS, box)
        expected = np.asarray(cut)[:, ::-1] if sample.flipped else np.asarray(cut)
        assert np.abs(np.asarray(sample.image).astype(float) - expected).mean() < 1
