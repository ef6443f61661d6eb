"""The same script on datago and on us: the same samples, fields, types and pixels."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.server import DataroomServer
from tests.support.images import add_pictures
from tests.support.needs import needs

needs("datago")

SCRIPT = Path(__file__).with_name("script.py")
CROP = {"default_image_size": 64, "downsampling_ratio": 16, "min_aspect_ratio": 0.5, "max_aspect_ratio": 2.0}
DROPPED = {"la.png", "la16.png", "rgba16.png"}
"""Of these datago drops the alpha channel, and we show mid-gray through it, as both do with RGBA of 8 bits."""
HARD = {"gif.gif", "one.png", "palette.png", "palette_alpha.png"}
"""Of hard edges; datago scales twice where the picture is cut, first to whole pixels, and so softens them."""
DEEP = {"gray16.png", "la16.png", "rgb16.png", "rgba16.png"}


def both(config: dict[str, Any], folder: Path, **environment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the script says of datago, and of us."""
    described, running = [], []
    for module in ("datago", "datago_gpu.compat"):
        out = folder / f"{module}.json"
        command = [sys.executable, str(SCRIPT), module, json.dumps(config), str(out)]
        settings = {**os.environ, "RUST_LOG": "off", "DATAGO_MAX_TASKS": "2", **environment}
        running.append((out, subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)))
    for out, process in running:
        _, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
        described.append(json.loads(out.read_text()))
    return described[0], described[1]


def by_name(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {json.loads(sample["id"]).rpartition("/")[2]: sample for sample in described["samples"]}


def pixels(image: dict[str, Any]) -> NDArray[np.float64]:
    data = base64.b64decode(image["data"])
    if image["is_encoded"]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(np.float64)
    dtype = np.uint16 if image["bit_depth"] == 16 else np.uint8
    scale = 257 if image["bit_depth"] == 16 else 1
    return np.frombuffer(data, dtype).reshape(image["height"], image["width"], -1) / scale


def assert_same_picture(
    theirs: dict[str, Any], ours: dict[str, Any], *, deep: bool = False, tolerance: float = 2
) -> None:
    """deep: 16 bits, which datago delivers but cannot turn into PIL or numpy; nor do we encode colours of 16 bits."""
    own = {"data", "pil", "numpy"} | ({"bit_depth"} if theirs["is_encoded"] and deep else set())
    assert {name: theirs[name] for name in theirs if name not in own} == {
        name: ours[name] for name in ours if name not in own
    }
    if not deep:
        assert ours["pil"] == theirs["pil"]
    if not (deep or theirs["is_encoded"]):  # datago's own fails on those
        assert ours["numpy"] == theirs["numpy"]
    assert "raises" not in str(ours["pil"]) + str(ours["numpy"])
    first, second = pixels(theirs), pixels(ours)
    assert first.shape == second.shape
    assert np.abs(first - second).mean() <= tolerance


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "image",
    [
        None,
        {"crop_and_resize": False, "image_to_rgb8": True},
        {"crop_and_resize": True, **CROP},
        {"crop_and_resize": True, "image_to_rgb8": True, **CROP},
        {"crop_and_resize": False, "pre_encode_images": True},
        {"crop_and_resize": True, "pre_encode_images": True, "encode_format": "jpeg", "image_to_rgb8": True, **CROP},
    ],
    ids=["own", "rgb8", "crop", "crop-rgb8", "png", "crop-jpeg"],
)
def test_every_kind_of_file_comes_as_from_datago(files: Path, tmp_path: Path, image: dict[str, Any] | None) -> None:
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(files), "rank": 0, "world_size": 1, "no_such_key": 1},
        "limit": 100,
        "samples_buffer_size": 8,
        "another_unknown_key": True,
        **({} if image is None else {"image_config": image}),
    }
    theirs, ours = both(config, tmp_path)
    assert ours["rules"] == theirs["rules"] == [True, True, None, None, None, None]
    assert ours["converted"] in (theirs["converted"], "raises ValueError") or "raises" in str(theirs["converted"])
    first, second = by_name(theirs), by_name(ours)
    assert sorted(first) == sorted(second)
    assert "cut.jpg" not in first
    for name, sample in first.items():
        assert {key: sample[key] for key in sample if key != "image"} == {
            key: second[name][key] for key in second[name] if key != "image"
        }
        if image and image.get("image_to_rgb8") and name in DROPPED:
            continue
        hard = bool(image) and name in HARD
        assert_same_picture(sample["image"], second[name]["image"], deep=name in DEEP, tolerance=4 if hard else 2)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("source", "image"),
    [
        ({}, None),
        ({"require_images": True, "require_embeddings": True, "tags": "first"}, {"crop_and_resize": True, **CROP}),
        ({"require_images": True, "has_masks": "fg", "has_latents": "vae,raw,masked_image"}, None),
        ({"require_images": True, "has_masks": "fg", "has_latents": "masked_image", "duplicate_state": 1},
         {"crop_and_resize": True, **CROP}),
        ({"require_images": True, "has_masks": "fg", "duplicate_state": -1},
         {"crop_and_resize": True, "pre_encode_images": True, "encode_format": "jpeg", **CROP}),
    ],
    ids=["no-images", "embeddings", "parts", "parts-cropped", "parts-encoded"],
)  # fmt: skip
def test_a_dataroom_comes_as_from_datago(
    server: DataroomServer, tmp_path: Path, source: dict[str, Any], image: dict[str, Any] | None
) -> None:
    config = {
        "source_config": {"sources": "", "page_size": 5, **source},
        "limit": 12,
        "samples_buffer_size": 4,
        **({} if image is None else {"image_config": image}),
    }
    theirs, ours = both(config, tmp_path, DATAROOM_API_URL=server.url, DATAROOM_API_KEY=server.key)
    first, second = ({sample["id"]: sample for sample in each["samples"]} for each in (theirs, ours))
    assert sorted(first) == sorted(second)
    assert len(first) == (5 if "tags" in source else 12)
    for name, sample in first.items():
        mine = second[name]
        for key in ("types", "fields", "source", "duplicate_state", "tags", "latents"):
            assert mine[key] == sample[key], key
        assert json.loads(mine["attributes"]) == json.loads(sample["attributes"])
        assert mine["coca_embedding"] == pytest.approx(sample["coca_embedding"])
        if source.get("require_images"):
            assert_same_picture(sample["image"], mine["image"])
        else:
            assert (mine["image"]["channels"], mine["image"]["data"]) == (0, "")
        for kind in ("masks", "additional_images"):
            assert mine[kind].keys() == sample[kind].keys()
            for part, picture in sample[kind].items():
                if kind == "additional_images" and image and image["crop_and_resize"]:
                    # of a part of another size than the image, the original size is not known once it was cropped
                    for name_of_size in ("original_width", "original_height"):
                        picture[name_of_size] = mine[kind][part][name_of_size]
                assert_same_picture(picture, mine[kind][part])


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 0},
        {"limit": "3"},
        {"limit": None},
        {"samples_buffer_size": 0},
        {"source_type": "nope"},
        {"source_config": {"root_path": "/no/such/folder"}},
        {"source_config": {"root_path": "/tmp", "rank": 3, "world_size": 2}},
        {"source_config": {"root_path": "/tmp", "world_size": 0}},
        {"image_config": {}},
        {"image_config": {"crop_and_resize": False, "jpeg_quality": 300}},
        {"image_config": {"crop_and_resize": False, "encode_format": "webp"}},
    ],
)
def test_what_datago_calls_invalid_yields_nothing(change: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    import datago

    from datago_gpu import compat

    config = {"source_type": "file", "source_config": {"root_path": "/tmp"}, "limit": 3, "samples_buffer_size": 2}
    text = json.dumps({**config, **change})
    assert datago.DatagoClient(text).get_sample() is None
    ours = compat.DatagoClient(text)
    assert ours.get_sample() is None
    assert ours.start() is None
    assert ours.get_sample_auto_convert() is None
    ours.stop()
    assert any(record.levelname == "ERROR" and record.name == "datago_gpu" for record in caplog.records)


@pytest.mark.parametrize("module", ["datago", "datago_gpu.compat"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_that_shuffle_take_every_file_once(module: str, world_size: int, tmp_path: Path) -> None:
    """Though each rank draws a seed of its own."""
    add_pictures(tmp_path, [(40, 40)] * 31)
    client_type = importlib.import_module(module).DatagoClient
    shares = []
    for rank in range(world_size):
        source = {"root_path": str(tmp_path), "random_sampling": True, "rank": rank, "world_size": world_size}
        client = client_type(
            json.dumps({"source_type": "file", "source_config": source, "limit": 100, "samples_buffer_size": 4})
        )
        shares.append([sample.id for sample in iter(client.get_sample, None)])
        client.stop()
    together = [name for share in shares for name in share]
    assert len(together) == len(set(together)) == 31
