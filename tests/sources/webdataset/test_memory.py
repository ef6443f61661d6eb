"""Shards that are read ahead keep to `buffer_mb`, however large their samples are and however slow the trainer is."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing

import pytest

from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef
from tests.support.bounds import MiB, peak_of
from tests.support.patience import rest
from tests.support.shards import shard_config, tar_bytes

SHARDS, SAMPLES, SAMPLE_MB, BUFFER_MB = 10, 3, 8, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("shards")
    for number in range(SHARDS):
        files = [(f"{number:02}{sample}.jpg", bytes(SAMPLE_MB * MiB)) for sample in range(SAMPLES)]
        (root / f"{number:02}.tar").write_bytes(tar_bytes(files))
    return str(root)


def read(root: str, interleave: int) -> None:
    """Take a sample, let the source read ahead as far as it will, and take the rest."""
    config = shard_config(root, interleave=interleave, buffer_mb=BUFFER_MB, http={"max_payload_mb": 16})

    async def main() -> int:
        count = 0
        async with HttpClient(config.http_config) as http, aclosing(open_source(config, http).refs(Position())) as refs:
            async for ref in refs:
                assert isinstance(ref, SampleRef)
                count += 1
                if count in (1, 5):
                    await asyncio.to_thread(rest, os.getpid())
        return count

    assert asyncio.run(main()) == SHARDS * SAMPLES


@pytest.mark.parametrize("interleave", [1, 8])
def test_large_samples_keep_to_the_buffer(folder: str, interleave: int) -> None:
    """Eight shards had two samples each, 128 MiB. Beside the buffer there are the sample that is asked for, the one
    that was taken, and for each shard 1 MiB of its file."""
    assert peak_of(read, folder, interleave) < BUFFER_MB + 2 * SAMPLE_MB + 8 + 25
