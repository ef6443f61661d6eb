"""Ranks through every door: together everything, none of it twice, in every pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import Loader
from datago_gpu.compat import DatagoClient
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs
from tests.support.shards import tar_bytes

COUNT = 13
SHARDS = 4
PASSES = 2

Config = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    add_pictures(root, [SHAPES[number % 3] for number in range(COUNT)])
    return root


@pytest.fixture(scope="module")
def sources(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Config]]:
    """The same pictures three times."""
    shards = tmp_path_factory.mktemp("shards")
    pictures = sorted(folder.iterdir())
    for number in range(SHARDS):
        content = [(path.name, path.read_bytes()) for path in pictures[number::SHARDS]]
        (shards / f"{number}.tar").write_bytes(tar_bytes(content))
    with DataroomServer(folder, watch_interval_s=None) as server:
        yield {
            "file": {"root_path": str(folder)},
            "webdataset": {"url": f"{shards}/{{0..{SHARDS - 1}}}.tar"},
            "db": {"api_url": server.url, "api_key": server.key, "require_images": True},
        }


def by_loader(config: Config) -> list[list[str]]:
    with Loader({**config, "epochs": PASSES}, device="cpu") as loader:
        passes: list[list[str]] = [[] for _ in range(PASSES)]
        for batch in loader:
            passes[batch.epoch] += batch.ids
        return passes


def by_dataset(config: Config) -> list[list[str]]:
    torch = needs("datago_gpu.torch")
    dataset = torch.LoaderDataset(config, device="cpu")
    return [[name for batch in dataset for name in batch["ids"]] for _ in range(PASSES)]


def by_client(config: Config) -> list[list[str]]:
    passes = []
    client = DatagoClient(json.dumps({**config, "limit": 1000}), device="cpu")
    for _ in range(PASSES):
        client.start()
        passes.append([sample.id for sample in iter(client.get_sample, None)])
    client.stop()
    return passes


DOORS: dict[str, Callable[[Config], list[list[str]]]] = {
    "Loader": by_loader, "LoaderDataset": by_dataset, "DatagoClient": by_client
}  # fmt: skip
WORLD_SIZES = [2, 3, 5, 1]
"""Each case takes the next of them; tests/sources/test_ranks.py takes all with all."""
CASES = [
    *[
        (door, source, shuffle, WORLD_SIZES[number % len(WORLD_SIZES)])
        for number, (door, source, shuffle) in enumerate(product(DOORS, ("file", "webdataset", "db"), (False, True)))
    ],
    ("DatagoClient", "file", True, 2),
    ("DatagoClient", "webdataset", True, SHARDS + 1),
]


@pytest.mark.parametrize(("door", "source", "shuffle", "world_size"), dict.fromkeys(CASES))
def test_ranks_take_everything_once_in_every_pass(
    sources: dict[str, Config], door: str, source: str, shuffle: bool, world_size: int
) -> None:
    configs = [
        {
            "source_type": source,
            "source_config": {
                **sources[source], "random_sampling": shuffle, "rank": rank, "world_size": world_size
            },
            "samples_buffer_size": 8,
            "prefetch_buffer_size": 8,
        }
        for rank in range(world_size)
    ]  # fmt: skip
    with ThreadPoolExecutor(world_size) as ranks:
        found = list(ranks.map(DOORS[door], configs))
    for number in range(PASSES):
        together = [name for rank in found for name in rank[number]]
        assert len(together) == len(set(together)) == COUNT
    if shuffle and source == "file" and world_size < 3:
        assert found[0][0] != found[0][1]


def test_ranks_of_a_client_may_be_in_different_passes(sources: dict[str, Config]) -> None:
    """As after a rank was started again. Each draws a seed of its own; nothing tells one of the other's."""

    def passes(rank: int) -> list[list[str]]:
        source = {**sources["file"], "random_sampling": True, "rank": rank, "world_size": 2}
        return by_client({"source_type": "file", "source_config": source, "samples_buffer_size": 8})

    first, second = passes(0), passes(1)
    for one, other in product(first, second):
        assert len({*one, *other}) == len(one) + len(other) == COUNT


def test_two_runs_of_a_client_shuffle_differently_and_a_seed_makes_them_alike(sources: dict[str, Config]) -> None:
    def passes(**more: int) -> list[list[str]]:
        source = {**sources["file"], "random_sampling": True}
        return by_client({"source_type": "file", "source_config": source, "samples_buffer_size": 8, **more})

    assert passes()[0] != passes()[0]
    assert passes(seed=3) == passes(seed=3) != passes(seed=9)
