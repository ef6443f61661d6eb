"""Tests of `datago_gpu.ray` on a cluster of one machine.

Run by test_ray.py in a process of their own, so that Ray is started once, and its processes are gone at the end.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

import datago_gpu.ray
from datago_gpu import ConfigError, Loader, LoaderConfig, Row, Sample, SourceError, TooManyErrors
from datago_gpu.index.build import build_index
from datago_gpu.loader.row_setup import load_config
from datago_gpu.server import DataroomServer
from tests import ray_training
from tests.support.frameworks import begin_cluster, blocks
from tests.support.images import SHAPES, add_pictures, file_config, small_jpeg
from tests.support.needs import needs
from tests.support.shards import tar_bytes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray 2.60 warns of its own settings

COUNT = 23
SOMEWHERE = {"source_type": "file", "source_config": {"root_path": "/x"}}
DATAROOM = {"api_url": "http://127.0.0.1:9", "api_key": "key", "random_method": "server"}
IMAGES = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    begin_cluster()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    add_pictures(root / "photos", [SHAPES[number % 3] for number in range(COUNT)])
    build_index(file_config(root / "photos"), root / "index.arrow", readers=0)
    return root


def settings(root: Path, **more: Any) -> dict[str, Any]:
    source = {"root_path": str(root / "photos"), "random_sampling": True}
    config = {"source_type": "file", "source_config": source, "image_config": IMAGES, "batch_size": 4}
    return {**config, "decode_config": {"processes": 0, "threads": 1}, **more}


def by_id(config: Any, source: object = None) -> dict[str, Sample]:
    with Loader(config, "cpu", source=source) as loader:
        return {sample.id: sample for batch in loader for sample in batch}


def test_each_sample_comes_once_with_the_pixels_of_a_loader(photos: Path) -> None:
    """Of a mixture of a folder and a table, in three buckets, so the tensors have three shapes; and in two views."""
    folder = {"name": "a", "source_type": "file", "source_config": settings(photos)["source_config"]}
    table = {"name": "b", "source_type": "table", "source_config": {"path": str(photos / "index.arrow")}}
    source = {"sources": [{**folder, "repeat": 1}, {**table, "repeat": 1}]}
    views = {**IMAGES, "views": [{}, {"default_image_size": 32}]}
    config = settings(photos, source_type="mix", source_config=source, image_config=views)
    rows = datago_gpu.ray.read(config, override_num_blocks=2, concurrency=1).take_all()
    with Loader(config, "cpu") as loader:
        plain = {(sample.mix, sample.id): sample for batch in loader for sample in batch}
    assert sorted((row["mix"], row["id"]) for row in rows) == sorted(plain)
    assert len(rows) == 2 * COUNT
    assert len({row["image"].shape for row in rows}) == 3
    for row in rows:
        sample = plain[row["mix"], row["id"]]
        np.testing.assert_array_equal(row["image"], sample.image, strict=True)
        np.testing.assert_array_equal(row["views.1"], sample.views[1], strict=True)
        assert (tuple(row["original_size"]), tuple(row["crop"])) == (sample.original_size, sample.crop)
        assert (json.loads(row["attributes"]), row["label"], row["flipped"]) == (sample.attributes, -1, False)


def test_shards_and_a_dataroom_are_read_too(photos: Path) -> None:
    shards = photos / "{0..1}.tar"
    names = sorted(path.name for path in (photos / "photos").iterdir())
    for number in range(2):
        pictures = [(name, (photos / "photos" / name).read_bytes()) for name in names[number::2]]
        (photos / f"{number}.tar").write_bytes(tar_bytes(pictures))
    with DataroomServer(photos / "photos") as server:
        for kind, source in (
            ("webdataset", {"url": str(shards)}),
            ("db", {"api_url": server.url, "api_key": server.key}),
        ):
            config = settings(photos, source_type=kind, source_config=source)
            rows = datago_gpu.ray.read(config, override_num_blocks=2, concurrency=1).take_all()
            plain = by_id(config)
            assert sorted(row["id"] for row in rows) == sorted(plain)
            assert len(plain) == COUNT
            assert all(("duplicate_state" in row) == (kind == "db") for row in rows)


def test_an_actor_decodes_rows_of_the_program_with_their_parts() -> None:
    """Every second row has a mask, a further image and a latent; attributes have other types in each row."""
    latent = io.BytesIO()
    np.save(latent, np.arange(6, dtype=np.float16))
    given = []
    for number in range(8):
        parts = {"seg": small_jpeg(200)} if number % 2 else {}
        more = {"depth": small_jpeg(number)} if number % 2 else {}
        latents = {"vae": latent.getvalue()} if number % 2 else {}
        attributes = {"caption": "a" if number % 3 else ["b", number], f"only{number}": None}
        given.append(Row(str(number), small_jpeg(number), 40, 40, attributes, parts, latents, number, more))
    config = {"image_config": {**IMAGES, "layout": "CHW", "flip": 1.0}, "decode_config": {"processes": 0}}
    actors = ray.data.ActorPoolStrategy(size=1)
    rows = datago_gpu.ray.read(config, source=given, override_num_blocks=1, compute=actors).take_all()
    plain = by_id(config, given)
    assert sorted(row["id"] for row in rows) == sorted(plain)
    for row in rows:
        sample, there = plain[row["id"]], int(row["id"]) % 2 == 1
        np.testing.assert_array_equal(row["image"], sample.image, strict=True)
        assert json.loads(row["attributes"]) == sample.attributes
        assert (row["label"], row["flipped"]) == (sample.label, True)
        assert {row[f"present.{name}"] for name in ("seg", "depth", "vae")} == {there}
        np.testing.assert_array_equal(row["masks.seg"], sample.masks["seg"] if there else np.zeros((1, 64, 64)))
        depth = sample.additional_images["depth"]
        np.testing.assert_array_equal(row["additional_images.depth"], depth if there else np.zeros((3, 64, 64)))
        np.testing.assert_equal(row["latents.vae"], np.arange(6, dtype=np.float16) if there else None)


@pytest.mark.parametrize(
    ("image", "shapes"),
    [
        ({"pre_encode_images": True}, {bytes}),
        ({"crop_and_resize": False}, {(40, 40, 3), (30, 60, 3)}),
    ],
)
def test_images_of_every_kind_become_a_column(image: dict[str, Any], shapes: set[Any], photos: Path) -> None:
    config = LoaderConfig.load({**settings(photos, limit=9), "image_config": {**IMAGES, **image}})
    found, plain = [], []
    with Loader(config, "cpu") as loader:
        for batch in loader:
            plain += batch
            found += ray.data.from_arrow(datago_gpu.ray._table(batch, config)).take_all()
    for row, sample in zip(found, plain, strict=True):
        np.testing.assert_array_equal(row["image"], sample.image)
    assert shapes <= {type(row["image"]) if isinstance(row["image"], bytes) else row["image"].shape for row in found}


def test_a_read_that_fails_raises_our_error(tmp_path: Path) -> None:
    config = settings(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"cannot list .*nowhere/photos: No such file or directory; check root_path"):
        datago_gpu.ray.read(config, override_num_blocks=1).take_all()


def test_a_task_that_has_nothing_but_a_bad_image_costs_the_others_nothing(tmp_path: Path) -> None:
    add_pictures(tmp_path / "photos", [SHAPES[0]])
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    config = settings(tmp_path)
    assert len(datago_gpu.ray.read(config, override_num_blocks=3).take_all()) == 1
    with pytest.raises(TooManyErrors, match="max_failures is 0"):
        datago_gpu.ray.read(config | {"max_failures": 0}, override_num_blocks=3).take_all()


def test_no_task_at_all_is_refused(photos: Path) -> None:
    with pytest.raises(ConfigError, match="override_num_blocks is 0"):
        datago_gpu.ray.read(settings(photos), override_num_blocks=0)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"epochs": 2}, "epochs is 2, which does not go with Ray Data"),
        ({"limit": 9}, "limit is 9, which does not go with Ray Data.* Dataset.limit"),
        ({"source_config": {"root_path": "/x", "rank": 0}}, "rank and world_size are those of each read task"),
        ({"image_config": {"dtype": "bfloat16"}}, "'bfloat16' has no type in Arrow"),
        (
            {"source_type": "mix", "source_config": {"sources": [{"name": "a", "weight": 1, **SOMEWHERE}]}},
            r"a mixture by weight begins .* again.* repeat: 1",
        ),
        (
            {"source_type": "db", "source_config": {**DATAROOM, "random_sampling": True}, "limit": 5},
            "random_method 'server' draws samples without end.*'shuffle'",
        ),
    ],
)
def test_settings_that_do_not_go_with_tasks_are_refused(more: dict[str, Any], words: str, photos: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        datago_gpu.ray.read(settings(photos, **more))


def test_an_iterator_is_refused() -> None:
    with pytest.raises(ConfigError, match="the source is an iterator, which one task alone could walk through"):
        datago_gpu.ray.read({}, source=iter([Row("a", b"")]))


def test_the_size_is_estimated_where_the_rows_are_known(photos: Path) -> None:
    def estimate(config: dict[str, Any], source: object = None) -> int | None:
        loaded, rows = load_config(config, source)
        return datago_gpu.ray._Samples(loaded, rows, "cpu", None).estimate_inmemory_data_size()

    table = {"source_type": "table", "source_config": {"path": str(photos / "index.arrow")}}
    assert estimate({**table, "image_config": IMAGES}) == pytest.approx(COUNT * 64 * 64 * 3, rel=0.1)
    rows = [Row(str(number), b"") for number in range(7)]
    floats = {**IMAGES, "dtype": "float32"}
    assert estimate({"image_config": floats}, rows) == pytest.approx(7 * 64 * 64 * 12, rel=0.1)
    assert estimate({"image_config": IMAGES}, lambda epoch: rows) is None
    assert estimate(settings(photos)) is None
    assert estimate(table) is None


def test_the_recipe_for_ray_data_runs(photos: Path) -> None:
    (block,) = blocks("Ray Data", photos)
    exec(block.replace("override_num_blocks=4", "override_num_blocks=1"), {"__name__": "__main__"})
    written = pq.read_table(photos / "brightness", columns=["id", "brightness", "tags"]).to_pylist()
    assert {row["tags"] for row in written} == {"[]"}
    plain = by_id({**settings(photos), "image_config": IMAGES})
    assert {row["id"]: row["brightness"] for row in written} == {
        name: pytest.approx(sample.image.mean()) for name, sample in plain.items()
    }


def test_ray_train_starts_workers_again_and_they_get_the_remaining_samples(tmp_path: Path) -> None:
    needs("torch")
    ray_training.check(tmp_path)
