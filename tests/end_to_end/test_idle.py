"""A trainer that waits: the feeder, its buffers full, does nothing then, and all comes when the trainer goes on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datago_gpu import Loader
from datago_gpu.server import DataroomServer
from tests.support.patience import rest
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes

KEY = "5ecret5ecret5ecret5ecret5ecret5ecret5ecr"
SHARDS, SHARD_SAMPLES = 8, 100
"""2 MB each: more than all the buffers below."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures as files and as shards."""
    root = tmp_path_factory.mktemp("pictures")
    out = io.BytesIO()
    Image.effect_noise((160, 160), 80).convert("RGB").save(out, "JPEG", quality=90)
    (root / "shards").mkdir()
    (root / "files").mkdir()
    for shard in range(SHARDS):
        names = [f"{shard}-{number:03}.jpg" for number in range(SHARD_SAMPLES)]
        (root / "shards" / f"{shard}.tar").write_bytes(tar_bytes((name, out.getvalue()) for name in names))
        for name in names:
            (root / "files" / name).write_bytes(out.getvalue())
    return root


def config(source_type: str, source: dict[str, Any], **http: Any) -> dict[str, Any]:
    return {
        "source_type": source_type,
        "source_config": source,
        "image_config": {"crop_and_resize": True, "default_image_size": 32, "downsampling_ratio": 32},
        "http_config": {"max_payload_mb": 1, **http},
        "batch_size": 4,
        "arena_mb": 2,
        "prefetch_buffer_size": 16,
        "samples_buffer_size": 4,
    }


def take_all_but_wait_once(settings: dict[str, Any]) -> None:
    with Loader(settings, device="cpu", backend="pillow") as loader:
        found = next(loader).ids
        rest(loader.feeder_pid, *loader.download_pids)
        for batch in loader:
            found += batch.ids
        assert loader.stats().skipped == {}
    assert len(set(found)) == len(found) == SHARDS * SHARD_SAMPLES


@pytest.mark.parametrize("buffer_mb", [1, 4])
@pytest.mark.parametrize("interleave", [1, 2, 3, 8])
def test_shards_larger_than_the_buffer(root: Path, interleave: int, buffer_mb: int) -> None:
    """Into the smaller buffer, not even one lot of a shard's samples fits."""
    source = {"url": f"{root}/shards", "interleave": interleave, "buffer_mb": buffer_mb}
    take_all_but_wait_once(config("webdataset", source))


@pytest.mark.parametrize("interleave", [1, 3])
def test_shards_over_http(root: Path, interleave: int) -> None:
    with MisbehavingServer() as server:
        for path in (root / "shards").iterdir():
            server.script(f"/{path.name}", Answer(200, path.read_bytes()))
        source = {"url": f"{server.url}/{{0..7}}.tar", "interleave": interleave, "buffer_mb": 1}
        take_all_but_wait_once(config("webdataset", source))


def test_shuffled_shards(root: Path) -> None:
    source = {"url": f"{root}/shards", "interleave": 3, "buffer_mb": 1, "random_sampling": True, "shuffle_buffer": 20}
    take_all_but_wait_once(config("webdataset", source))


@pytest.mark.parametrize("shuffled", [False, True])
def test_files(root: Path, shuffled: bool) -> None:
    take_all_but_wait_once(config("file", {"root_path": f"{root}/files", "random_sampling": shuffled}))


@pytest.fixture(scope="module")
def dataroom(root: Path) -> Iterator[DataroomServer]:
    with DataroomServer(root / "files", key=KEY, payload_port=0) as server:
        yield server


@pytest.mark.parametrize("processes", [0, 1])
def test_a_dataroom(dataroom: DataroomServer, processes: int) -> None:
    source = {"api_url": dataroom.url, "api_key": KEY, "page_size": 50}
    take_all_but_wait_once(config("db", source, download_processes=processes))
