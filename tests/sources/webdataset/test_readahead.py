"""Shards that are opened before their turn: what goes wrong there comes in its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from datago_gpu.sources.local import Patience
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.webdataset.budget import Channel
from datago_gpu.sources.webdataset.grouping import Collector
from datago_gpu.sources.webdataset.readahead import ReadAhead
from datago_gpu.sources.webdataset.shard_list import Shard
from datago_gpu.sources.webdataset.shard_reader import OpenShard
from datago_gpu.sources.webdataset.windows import Windows
from tests.support.shards import shard_config, write_shards


@pytest.mark.parametrize("concurrent", [1, 2, 8])
@pytest.mark.parametrize("bad", [0, 1, 3])
def test_a_shard_that_cannot_be_opened_is_an_error_behind_those_before_it(
    tmp_path: Path, bad: int, concurrent: int
) -> None:
    """It may be found when another one has arrived, where nobody asks for anything."""
    counts = [2, 1, 3, 2, 1]
    paths = write_shards(tmp_path, counts)
    config, windows = shard_config(tmp_path), Windows(2**20)

    def opener(shard: Shard, channel: Channel[SampleRef | Skipped], arrived: Callable[[], None]) -> OpenShard:
        if shard.address == str(paths[bad]):
            raise RuntimeError("can't start new thread")
        collector = Collector(config, shard.shown)
        return OpenShard(shard.address, None, collector, channel, 0, Patience(config.http_config), windows, arrived)

    found: list[int] = []

    async def main() -> None:
        shards = [Shard(str(path)) for path in paths]
        ahead = ReadAhead(shards, opener, concurrent=concurrent, capacity=2**20, windows=windows)
        async with aclosing(ahead.turns([1] * len(counts))) as turns:
            turn = 0
            async for (shard,) in turns:
                while await shard.take():
                    found.append(turn)
                turn += 1

    with pytest.raises(RuntimeError, match="can't start"):
        asyncio.run(main())
    assert found == [turn for turn, count in enumerate(counts[:bad]) for _ in range(count)]
