"""Shards in the cache: whole or not at all, and the same samples with and without."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datago_gpu.config import CacheConfig, LoaderConfig
from datago_gpu.errors import SourceError
from datago_gpu.sources import open_source
from datago_gpu.sources.cache.cache_entry import BLOCK
from datago_gpu.sources.cache.cache_folder import FORM_FOLDER, CacheFolder
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from tests.support.moto_s3 import KEY, SECRET, s3_client, s3_server
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import pictures, shard_config, tar_bytes

SHARDS = [tar_bytes(pictures(number * 10, number * 10 + 10, size=300_000)) for number in range(3)]
"""Of 3 MB each: several blocks."""
IDS = [f"{number:04}" for number in range(30)]


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        for number, content in enumerate(SHARDS):
            running.script(f"/{number}.tar", Answer(200, content, {"ETag": f'"{number}"'}, ranges=True))
        yield running


def config_of(url: str, cache: Path, mib: float = 100, **more: Any) -> LoaderConfig:
    settings = CacheConfig(path=str(cache), size_gb=mib / 1024)
    return msgspec.structs.replace(shard_config(url, **more), cache_config=settings)


def read(config: LoaderConfig, epochs: int = 1) -> tuple[list[list[SampleRef | Skipped]], CacheFolder]:
    async def main() -> tuple[list[list[SampleRef | Skipped]], CacheFolder]:
        found = []
        with CacheFolder.of(config) as cache:
            async with HttpClient(config.http_config) as http:
                source = open_source(config, http, None, cache)
                for epoch in range(epochs):
                    async with aclosing(source.refs(Position(epoch))) as refs:
                        found.append([ref async for ref in refs])
        return found, cache

    return asyncio.run(asyncio.wait_for(main(), 60))


def ids(refs: list[SampleRef | Skipped]) -> list[str]:
    return [ref.id if isinstance(ref, SampleRef) else ref.reason for ref in refs]


def entries(cache: Path) -> list[Path]:
    return sorted((cache / FORM_FOLDER).glob("??/*"))


def test_a_shard_is_requested_once_and_its_samples_are_the_same(server: MisbehavingServer, tmp_path: Path) -> None:
    config = config_of(f"{server.url}/{{0..2}}.tar?expires=1&signature=2", tmp_path)
    (first, second), cache = read(config, 2)
    assert ids(first) == ids(second) == IDS
    assert [ref.payload for ref in first if isinstance(ref, SampleRef)] == [
        ref.payload for ref in second if isinstance(ref, SampleRef)
    ]
    assert len(server.requests) == 3
    assert (cache.counts.hits, cache.counts.misses, cache.counts.bytes) == (3, 3, sum(map(len, SHARDS)))


def test_with_room_for_two_shards_the_third_is_requested_in_each_epoch(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    config = config_of(f"{server.url}/{{0..2}}.tar", tmp_path, mib=7, concurrent_downloads=1)
    found, _ = read(config, 3)
    assert [ids(each) for each in found] == [IDS] * 3
    assert [server.count(f"/{number}.tar") for number in range(3)] == [1, 1, 3]
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("at", [0, BLOCK + 5, 2 * BLOCK + 5], ids=["first", "second", "last"])
def test_a_damaged_block_is_replaced_in_the_middle_of_the_shard(
    server: MisbehavingServer, tmp_path: Path, at: int
) -> None:
    config = config_of(f"{server.url}/0.tar", tmp_path)
    read(config)
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) - len(SHARDS[0]) + at] ^= 1
    path.write_bytes(content)
    (found, again), _ = read(config, 2)
    assert ids(found) == ids(again) == IDS[:10]
    assert [ref.payload for ref in found if isinstance(ref, SampleRef)] == [
        ref.payload for ref in again if isinstance(ref, SampleRef)
    ]
    assert server.count("/0.tar") == 2


def test_a_damaged_shard_that_has_changed_on_its_server_is_never_joined_with_it(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    config = config_of(f"{server.url}/0.tar", tmp_path)
    read(config)
    (path,) = entries(tmp_path)
    path.write_bytes(path.read_bytes()[:-10] + bytes(10))
    content = bytearray(path.read_bytes())
    content[-BLOCK] ^= 1
    path.write_bytes(content)
    server.script("/0.tar", Answer(200, SHARDS[1]))
    (found,), _ = read(config)
    assert ids(found)[-1] == "changed"
    assert ids(found)[:-1] == IDS[: len(found) - 1]
    assert ids(read(config)[0][0]) == IDS[10:20]


def test_what_did_not_arrive_whole_or_is_no_archive_is_not_kept(server: MisbehavingServer, tmp_path: Path) -> None:
    config = config_of(f"{server.url}/0.tar", tmp_path, http={"max_tries": 1})
    for answer in (
        Answer(200, SHARDS[0], cut_after=2 * BLOCK),
        Answer(200, b"<html>busy" * 1000),
        Answer(200, SHARDS[0], length=-1),
        Answer(200, SHARDS[0], chunked=True),
    ):
        server.script("/0.tar", answer)
        with suppress(SourceError):  # not a single sample
            read(config)
        assert entries(tmp_path) == []
    server.script("/0.tar", Answer(200, SHARDS[0]))
    read(config)
    assert len(entries(tmp_path)) == 1


def test_a_download_that_breaks_and_goes_on_is_kept_whole(server: MisbehavingServer, tmp_path: Path) -> None:
    tag = {"ETag": '"0"'}
    server.script("/0.tar", Answer(200, SHARDS[0], tag, ranges=True, cut_after=BLOCK + 9), Answer(200, SHARDS[0], tag))
    (first, second), _ = read(config_of(f"{server.url}/0.tar", tmp_path), 2)
    assert ids(first) == ids(second) == IDS[:10]
    assert server.count("/0.tar") == 2


def test_a_compressed_shard_is_kept_as_it_was_sent(server: MisbehavingServer, tmp_path: Path) -> None:
    packed = gzip.compress(SHARDS[0], 1)
    server.script("/0.tar", Answer(200, packed, {"Content-Encoding": "gzip"}))
    (first, second), _ = read(config_of(f"{server.url}/0.tar", tmp_path), 2)
    assert ids(first) == ids(second) == IDS[:10]
    assert server.count("/0.tar") == 1


def test_shards_of_a_bucket_are_replaced_when_their_etag_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with s3_server("mine", [(f"train/{number}.tar", SHARDS[number]) for number in range(2)]) as endpoint:
        options = {"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}
        config = config_of("s3://mine/train/", tmp_path / "cache", storage_options=options)
        (first, second), cache = read(config, 2)
        assert ids(first) == ids(second) == IDS[:20]
        assert (cache.counts.hits, cache.counts.misses) == (2, 2)
        client = s3_client(endpoint)
        client.put_object(Bucket="mine", Key="train/1.tar", Body=SHARDS[2])
        client.close()
        for hits in (1, 2):
            (found,), cache = read(config)
            assert ids(found) == IDS[:10] + IDS[20:]
            assert cache.counts.hits == hits


def test_a_disk_that_fails_in_the_middle_of_a_shard_costs_the_stream_nothing(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, pwrite = [], os.pwrite

    def fail(descriptor: int, content: bytes, at: int) -> int:
        if len(content) == BLOCK:
            written.append(at)
            if len(written) > 2:
                raise OSError(28, "No space left on device")
        return pwrite(descriptor, content, at)

    monkeypatch.setattr(os, "pwrite", fail)
    (first, second), _ = read(config_of(f"{server.url}/{{0..2}}.tar", tmp_path, concurrent_downloads=1), 2)
    assert ids(first) == ids(second) == IDS
    assert len(server.requests) == 6 - len(entries(tmp_path))
    assert not list(tmp_path.rglob("*.new"))
