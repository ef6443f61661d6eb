"""Samples of shards have the fields that datago gives them: over http beside datago itself, and local ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datago_gpu.compat import DatagoClient
from tests.compat.conftest import RGB, add_shard
from tests.compat.test_against_datago import CROP, assert_same_picture, both
from tests.support.needs import needs
from tests.support.pictures import encode
from tests.support.servers import Answer, MisbehavingServer

WITH_IMAGES = {"a0", "a1", "b0", "b1", "b2", "end", "photo.v1", "photo.v2"}
EMPTY = {"b0.mask", "b1.mask", "b2.mask"}
"""The samples that datago makes of files without the reference image. They have no picture; its own
`get_sample_auto_convert` panics on them."""


def config_of(url: str, **more: Any) -> dict[str, Any]:
    source = {"url": url, "concurrent_downloads": 2, **more.pop("source", {})}
    return {"source_type": "webdataset", "source_config": source, "limit": 100, "samples_buffer_size": 8, **more}


def assert_same_fields(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Every field but the pictures. The order of attributes varies from run to run in datago."""
    for key in ("types", "fields", "id", "source", "duplicate_state", "tags", "coca_embedding", "masks", "latents"):
        assert ours[key] == theirs[key], key
    assert json.loads(ours["attributes"]) == json.loads(theirs["attributes"])
    assert ours["additional_images"].keys() == theirs["additional_images"].keys()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "image",
    [None, {"crop_and_resize": True, **CROP}, {"crop_and_resize": False, "pre_encode_images": True}],
    ids=["own", "crop", "png"],
)
def test_samples_of_shards_come_as_from_datago(shards: Path, tmp_path: Path, image: dict[str, Any] | None) -> None:
    needs("datago")
    with MisbehavingServer() as server:
        for path in sorted(shards.iterdir()):
            server.script(f"/{path.name}", Answer(body=path.read_bytes()))
        more = {} if image is None else {"image_config": image}
        theirs, ours = both(config_of(f"{server.url}/two-{{000000..000001}}.tar", **more), tmp_path)
    first, second = ({sample["id"]: sample for sample in each["samples"]} for each in (theirs, ours))
    assert (set(first), set(second)) == (WITH_IMAGES | EMPTY, WITH_IMAGES)
    assert all(first[name]["image"]["channels"] == 0 for name in EMPTY)
    assert ours["rules"] == theirs["rules"]
    for name, mine in second.items():
        assert_same_fields(first[name], mine)
        assert_same_picture(first[name]["image"], mine["image"])
        for file, picture in mine["additional_images"].items():
            for side in ("original_width", "original_height"):  # not known once the picture is cropped
                first[name]["additional_images"][file][side] = picture[side]
            assert_same_picture(first[name]["additional_images"][file], picture)


def test_local_shards_have_the_same_form(shards: Path) -> None:
    client = DatagoClient(json.dumps(config_of(str(shards / "two-{000000..000001}.tar"))), device="cpu")
    samples = {sample.id: sample for sample in iter(client.get_sample, None)}
    assert set(samples) == WITH_IMAGES
    assert samples["b1"].source == str(shards / "two-000001.tar")
    assert json.loads(samples["b1"].attributes) == {"cls": "1\n", "json": "[1]"}
    assert json.loads(samples["a1"].attributes) == {"json": "no JSON", "txt": "\ufffd is not UTF-8"}
    assert {name: image.size for name, image in samples["a1"].additional_images.items()} == {"f/a1.png": (40, 20)}
    client.start()
    found = [converted["attributes"] for converted in iter(client.get_sample_auto_convert, None)]
    assert {"cls": '"1\\n"', "json": '"[1]"'} in found
    client.stop()


def test_masks_come_with_their_image_where_the_config_names_them(shards: Path) -> None:
    """Which datago cannot: masks is a setting of ours."""
    config = config_of(str(shards / "two-000001.tar"), source={"masks": "mask.png"})
    client = DatagoClient(json.dumps(config), device="cpu")
    samples = list(iter(client.get_sample, None))
    client.stop()
    assert [(sample.id, list(sample.masks)) for sample in samples] == [(f"b{n}", ["mask.png"]) for n in range(3)]
    assert json.loads(samples[2].attributes) == {"cls": "2\n", "json": "[2]"}


@pytest.mark.parametrize(
    ("reference", "found"),
    [("png", {"a1", *EMPTY}), ("", WITH_IMAGES - {"photo.v1", "photo.v2"} | {"photo"})],
)
def test_another_image_may_be_the_reference(shards: Path, reference: str, found: set[str]) -> None:
    """ "" is a word of ours: the first image of a key that ends at the first dot."""
    config = config_of(str(shards / "two-{000000..000001}.tar"), source={"reference_image_type": reference})
    client = DatagoClient(json.dumps(config), device="cpu")
    samples = {sample.id: sample for sample in iter(client.get_sample, None)}
    client.stop()
    assert set(samples) == found
    assert samples["a1"].source.endswith("two-000000.tar")
    assert list(samples["a1"].additional_images) == (["f/a1.jpg"] if reference else [])


def test_the_form_changes_no_state_and_no_sample_of_a_loader(shards: Path) -> None:
    from datago_gpu import Loader

    source = {"url": str(shards / "two-000001.tar")}
    with Loader({"source_type": "webdataset", "source_config": source, "batch_size": 2}, device="cpu") as loader:
        own, state = next(loader), loader.state_dict()
    assert own.sources == ["webdataset"] * 2
    assert own.attributes[0] == {"cls": 0, "json": [0]}
    config = {"source_type": "webdataset", "source_config": {**source, "datago_form": True}}
    with Loader(config, device="cpu", state=state) as loader:
        batch = next(loader)
    assert (batch.ids, batch.sources, batch.attributes) == (["b2"], [source["url"]], [{"cls": "2\n", "json": "[2]"}])


def test_texts_behind_a_mask_are_lost_as_in_datago_and_a_warning_says_how_to_get_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A sorted archive: the mask stands between the other files of its sample."""
    files = {name: encode(RGB, "JPEG" if name.endswith("jpg") else "PNG") for name in ("a.jpg", "a.mask.png")}
    add_shard(tmp_path / "x.tar", files | {"a.txt": b"text"})
    for more, attributes in (({}, {}), ({"key_dots": "first"}, {"txt": "text"})):
        client = DatagoClient(json.dumps(config_of(str(tmp_path / "x.tar"), source=more)), device="cpu")
        (sample,) = iter(client.get_sample, None)
        client.stop()
        assert json.loads(sample.attributes) == attributes
        assert ("key_dots to 'first'" in caplog.text) == (not more)
        caplog.clear()
