"""The ranks' shares: together everything, none of it twice, in every epoch, whatever is shuffled how."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.config import LoaderConfig
from datago_gpu.server import DataroomServer
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef
from tests.support.images import add_picture
from tests.support.shards import write_shards
from tests.support.tables import write_table

COUNTS = [4, 1, 7, 3, 5]
"""Samples of each shard; in a folder and in a Dataroom, pictures of each subfolder."""
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number, count in enumerate(COUNTS):
        for each in range(count):
            add_picture(root / str(number) / f"{each}.jpg")
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shards(root, COUNTS, size=100)
    return root


@pytest.fixture(scope="module")
def sources(folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings that list the same names: source type -> source_config."""
    names = {"path": [f"{number}/{each}.jpg" for number, count in enumerate(COUNTS) for each in range(count)]}
    table = write_table(tmp_path_factory.mktemp("tables") / "t.parquet", names, row_group_size=6)
    return {
        "file": {"root_path": str(folder)},
        "webdataset": {"url": f"{shards}/*.tar"},
        "table": {"path": str(table), "root": str(folder)},
    }


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[DataroomServer]:
    with DataroomServer(folder, watch_interval_s=None) as running:
        yield running


async def shares(configs: list[dict[str, Any]], epoch: int, *, losses: bool = False) -> list[list[str]]:
    """The ids of each rank's samples, whose numbers have to be 0, 1, 2, ... losses: shards may break off."""
    found = []
    async with AsyncExitStack() as stack:
        for given_config in configs:
            config = LoaderConfig.load(given_config)
            http = await stack.enter_async_context(HttpClient(config.http_config))
            async with aclosing(open_source(config, http).refs(Position(epoch))) as refs:
                mine = [ref async for ref in refs if not losses or isinstance(ref, SampleRef)]
            assert all(isinstance(ref, SampleRef) for ref in mine)
            assert [ref.index for ref in mine] == list(range(len(mine)))
            found.append([ref.id for ref in mine])
    return found


def ranks(source_type: str, source: dict[str, Any], world_size: int, seeds: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "source_type": source_type,
            "source_config": {**source, "rank": rank, "world_size": world_size},
            "seed": seeds[rank % len(seeds)],
        }
        for rank in range(world_size)
    ]


def assert_everything_once(found: list[list[str]]) -> list[str]:
    together = [name for share in found for name in share]
    assert len(together) == len(set(together)) == TOTAL
    return together


SEEDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)
SPLITS = st.sampled_from([{}, {"random_sampling": True}, {"random_sampling": True, "rank_split": "listed"}])


@settings(max_examples=60)
@given(st.integers(1, 30), SPLITS, SEEDS, st.integers(0, 3))
def test_ranks_of_a_folder(folder: Path, world_size: int, split: dict[str, Any], seeds: list[int], epoch: int) -> None:
    """Only ranks that share the listing may have seeds of their own."""
    seeds = seeds if split.get("rank_split") else seeds[:1]
    found = asyncio.run(shares(ranks("file", {"root_path": str(folder), **split}, world_size, seeds), epoch))
    assert_everything_once(found)
    sizes = {len(share) for share in found}
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=25)
@given(st.integers(1, 8), SPLITS, SEEDS, st.integers(0, 2), st.integers(1, 8), st.integers(1, 9))
def test_ranks_of_shards(
    shards: Path, world_size: int, split: dict[str, Any], seeds: list[int], epoch: int, interleave: int, buffer: int
) -> None:
    """Also more ranks than shards, which share single samples."""
    seeds = seeds if split.get("rank_split") else seeds[:1]
    source = {"url": f"{shards}/*.tar", "interleave": interleave, "shuffle_buffer": buffer, **split}
    assert_everything_once(asyncio.run(shares(ranks("webdataset", source, world_size, seeds), epoch)))


@settings(max_examples=15)
@given(st.data(), st.integers(len(COUNTS) + 1, 8), SPLITS, st.integers(0, 2), st.sampled_from([1, 2, 3]))
def test_a_shard_that_one_rank_cannot_read_changes_nothing_for_the_other_shards_and_ranks(
    shards: Path, data: st.DataObject, world_size: int, split: dict[str, Any], epoch: int, interleave: int
) -> None:
    """There are more ranks than shards, which so share the samples of each."""
    paths = sorted(shards.glob("*.tar"))
    numbers = [range(sum(COUNTS[:shard]), sum(COUNTS[: shard + 1])) for shard in range(len(COUNTS))]
    readable = [[data.draw(st.integers(0, count) | st.just(count)) for count in COUNTS] for _ in range(world_size)]
    if data.draw(st.booleans()):
        readable[1:] = [list(COUNTS)] * (world_size - 1)
    with tempfile.TemporaryDirectory() as folder:

        def shard(number: int, samples: int) -> str:
            if samples == COUNTS[number]:
                return str(paths[number])
            cut = Path(folder) / f"{number}-{samples}.tar"
            content = paths[number].read_bytes()
            cut.write_bytes(content[: content.index(f"{numbers[number][samples]:04}.jpg".encode()) + 600])
            return str(cut)

        source = {"interleave": interleave, **split}
        whole = asyncio.run(shares(ranks("webdataset", {"url": f"{shards}/*.tar", **source}, world_size, [3]), epoch))
        configs = ranks("webdataset", {"url": "", **source}, world_size, [3])
        for config, samples in zip(configs, readable, strict=True):
            config["source_config"]["url"] = "::".join(map(shard, range(len(COUNTS)), samples))
        configs = [config for config, samples in zip(configs, readable, strict=True) if any(samples)]
        found = asyncio.run(shares(configs, epoch, losses=True))
    expected = []
    for share, samples in zip(whole, readable, strict=True):
        there = {f"{number:04}" for shard, count in zip(numbers, samples, strict=True) for number in shard[:count]}
        if there:
            expected.append(sorted(there.intersection(share)))
    assert [sorted(share) for share in found] == expected


@settings(max_examples=8)
@given(st.integers(1, 5), st.booleans(), SEEDS, st.integers(0, 2))
def test_ranks_of_a_dataroom(
    server: DataroomServer, world_size: int, shuffle: bool, seeds: list[int], epoch: int
) -> None:
    """They share the server's listing in any case, and so need no common seed."""
    source = {"api_url": server.url, "api_key": server.key, "random_sampling": shuffle, "shuffle_buffer": 4}
    assert_everything_once(asyncio.run(shares(ranks("db", source, world_size, seeds), epoch)))


@pytest.mark.parametrize("source_type", ["file", "webdataset", "table"])
def test_what_a_rank_takes(sources: dict[str, dict[str, Any]], source_type: str) -> None:
    """Other samples in each epoch, or always the same ones in another order."""
    source = sources[source_type]

    def share(epoch: int, split: str) -> list[str]:
        shuffled = {**source, "random_sampling": True, "rank_split": split}
        return asyncio.run(shares(ranks(source_type, shuffled, 2, [1])[:1], epoch))[0]

    listed, shuffled = ([share(epoch, split) for epoch in range(4)] for split in ("listed", "shuffled"))
    assert len({tuple(sorted(each)) for each in listed}) == 1
    assert len({tuple(each) for each in listed}) == 4
    assert len({tuple(sorted(each)) for each in shuffled}) > 1


def test_one_rank_is_shuffled_alike_by_both(sources: dict[str, dict[str, Any]]) -> None:
    for source_type, source in sources.items():
        orders = [
            asyncio.run(shares(ranks(source_type, {**source, "random_sampling": True, "rank_split": split}, 1, [3]), 2))
            for split in ("listed", "shuffled")
        ]
        assert orders[0] == orders[1]
