"""Fetching with a cache: each payload is requested once, counted at the server, and no fault of the cache is felt."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.payload_client import remote_of
from datago_gpu.feeder.prefetch_budget import Budget
from datago_gpu.feeder.window import Outcome
from datago_gpu.sources import open_source
from datago_gpu.sources.cache.cache_folder import FORM_FOLDER, CacheFolder, Miss
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Part, Position, SampleRef, Span
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.images import add_picture, small_jpeg
from tests.support.moto_s3 import KEY, SECRET, s3_client, s3_server
from tests.support.proxies import ForwardProxy
from tests.support.servers import Answer, MisbehavingServer

PICTURES = [small_jpeg(number) for number in range(8)]
BLOCK = 4096
"""What an entry of a small picture takes."""


def config_of(path: Path | str, blocks: float = 1000, **more: Any) -> LoaderConfig:
    """Settings of rows with addresses, and room for so many small pictures."""
    return LoaderConfig.load_for_rows(
        {
            "cache_config": {"path": str(path), "size_gb": blocks * BLOCK / 2**30, **more.pop("cache", {})},
            "http_config": {"max_payload_mb": 4, "max_tries": 1, **more.pop("http", {})},
            "arena_mb": 16,
            "max_refused_in_a_row": None,
            **more,
        }
    )


Epoch = Callable[[list[SampleRef]], Awaitable[list[Outcome]]]


def run(config: LoaderConfig, work: Callable[[Epoch, CacheFolder], Awaitable[Any]]) -> Any:
    """Calls `work` with a function that loads samples, all at once."""

    async def main() -> Any:
        async with HttpClient(config.http_config) as http, remote_of(config, http, []) as remote:
            with CacheFolder.of(config) as cache:
                fetcher = Fetcher(config, remote, cache=cache)

                async def load(refs: list[SampleRef]) -> list[Outcome]:
                    lots = await asyncio.gather(*(fetcher([ref], Budget(2**30).claim()) for ref in refs))
                    return [outcome for lot in lots for outcome in lot]

                try:
                    return await asyncio.wait_for(work(load, cache), 60)
                finally:
                    fetcher.close()

    return asyncio.run(main())


def load(config: LoaderConfig, *epochs: list[SampleRef]) -> list[list[bytes | str]]:
    """The payloads of each epoch, or the reasons of what is skipped."""

    async def work(epoch: Epoch, _: CacheFolder) -> list[list[bytes | str]]:
        found = [await epoch(refs) for refs in epochs]
        return [[each.payload if isinstance(each, Admitted) else each.reason for each in one] for one in found]

    return list(run(config, work))


def counts(config: LoaderConfig, *epochs: list[SampleRef]) -> tuple[int, int, int]:
    async def work(epoch: Epoch, cache: CacheFolder) -> tuple[int, int, int]:
        for refs in epochs:
            await epoch(refs)
        return cache.counts.hits, cache.counts.misses, cache.counts.bytes

    hits, misses, size = run(config, work)
    return hits, misses, size


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        for number, picture in enumerate(PICTURES):
            running.script(f"/{number}.jpg", Answer(200, picture))
        yield running


def refs(server: MisbehavingServer, query: str = "", version: str = "") -> list[SampleRef]:
    return [
        SampleRef(number, SampleInfo(str(number)), url=f"{server.url}/{number}.jpg{query}", version=version)
        for number in range(len(PICTURES))
    ]


def test_what_is_cached_is_not_requested_again_whatever_the_signature(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "new" / "cache")
    signed = [refs(server, f"?expires={number}&signature={number:064}") for number in range(3)]
    assert load(config, *signed) == [PICTURES] * 3
    assert len(server.requests) == 8
    assert counts(config, refs(server)) == (8, 0, sum(map(len, PICTURES)))
    assert len(server.requests) == 8
    names = [path.name for path in (tmp_path / "new" / "cache" / FORM_FOLDER).rglob("*")]
    assert not any(".jpg" in name or "127.0.0.1" in name for name in names)


def test_with_room_for_half_exactly_half_is_requested_in_each_later_epoch(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    config = config_of(tmp_path, blocks=4)
    assert load(config, *[refs(server)] * 3) == [PICTURES] * 3
    assert len(server.requests) == 8 + 4 + 4
    assert counts(config, refs(server))[:2] == (4, 4)
    assert len(server.requests) == 20


def test_parts_and_spans_are_cached_as_well(server: MisbehavingServer, tmp_path: Path) -> None:
    mask = add_picture(tmp_path / "mask.png").read_bytes()
    server.script("/mask.png", Answer(200, mask))
    server.script("/joined.bin", Answer(200, b"".join(PICTURES), ranges=True))
    whole = SampleRef(0, SampleInfo("a"), url=f"{server.url}/0.jpg")
    whole.parts = [Part("fg", "mask", url=f"{server.url}/mask.png")]
    second = Span(len(PICTURES[0]), len(PICTURES[1]))
    parts = [
        SampleRef(1, SampleInfo("b"), url=f"{server.url}/joined.bin", span=Span(0, len(PICTURES[0]))),
        SampleRef(2, SampleInfo("c"), url=f"{server.url}/joined.bin", span=second),
    ]
    config = config_of(tmp_path / "cache")
    assert load(config, [whole, *parts], [whole, *parts]) == [[PICTURES[0], *PICTURES[:2]]] * 2
    assert len(server.requests) == 4
    whole.version = "another image"  # then the mask is another one, too
    load(config, [whole, *parts], [whole, *parts])
    assert len(server.requests) == 4 + 2


def test_payloads_that_are_bad_are_not_kept(server: MisbehavingServer, tmp_path: Path) -> None:
    """A server's page of an error must not stay for ever. An image that the settings leave out may."""
    server.script("/0.jpg", Answer(200, b"<html>busy"), Answer(200, PICTURES[0]))
    server.script("/1.jpg", Answer(200, PICTURES[1][:-20], length=-1), Answer(200, PICTURES[1]))
    server.script("/2.jpg", Answer(200, b""), Answer(200, PICTURES[2]))
    bad = ["unknown-format", "undecodable", "empty", *PICTURES[3:]]
    assert load(config_of(tmp_path), *[refs(server)] * 3) == [bad, PICTURES, PICTURES]
    assert len(server.requests) == 8 + 3
    small = config_of(tmp_path / "small", decode_config={"max_pixels": 10})
    assert load(small, refs(server), refs(server)) == [["too-many-pixels"] * 8] * 2
    assert len(server.requests) == 11 + 8


def test_a_listing_that_says_another_version_brings_the_new_payload(server: MisbehavingServer, tmp_path: Path) -> None:
    config = config_of(tmp_path, blocks=8)
    load(config, refs(server, version="1"), refs(server, version="1"), refs(server))
    assert len(server.requests) == 8
    for number in range(8):
        server.script(f"/{number}.jpg", Answer(200, PICTURES[7 - number]))
    assert load(config, refs(server), refs(server, version="2"), refs(server)) == [
        PICTURES, PICTURES[::-1], PICTURES[::-1],
    ]  # fmt: skip
    assert len(server.requests) == 16


def test_large_payloads_wait_for_memory_also_out_of_the_cache(server: MisbehavingServer, tmp_path: Path) -> None:
    large = PICTURES[0][:-2] + bytes(3 * 2**20) + PICTURES[0][-2:]
    server.script("/large.jpg", Answer(200, large))
    config, ref = config_of(tmp_path), SampleRef(0, SampleInfo("a"), url=f"{server.url}/large.jpg")
    assert load(config, [ref]) == [[large]]

    async def work(_: Epoch, cache: CacheFolder) -> None:
        asked = []

        async def need(size: int) -> None:
            asked.append(size)

        assert await cache.of_source(config).find(ref.url, None, "", 2**30, 1000, need) == large
        assert asked == [len(large)]

    run(config, work)
    lowered = config_of(tmp_path, http={"max_payload_mb": 1})
    assert load(lowered, [ref]) == [["too-large"]]
    assert server.count("/large.jpg") == 2


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A small disk. Skips the test where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets the test mount no disk of its own")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_full_disk_is_one_warning_and_what_is_there_is_used(
    server: MisbehavingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "disk", "32k"):
        config = config_of(tmp_path / "disk")
        assert load(config, *[refs(server)] * 3) == [PICTURES] * 3
        kept = 24 - len(server.requests)
        assert kept > 0
        assert not kept % 2
        (words,) = told(caplog)
        assert "cannot be written (No space left on device): nothing more is added to it in this run" in words
        assert not list((tmp_path / "disk").rglob("*.new"))
        assert load(config, refs(server)) == [PICTURES]


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_one_warning(
    server: MisbehavingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = tmp_path / "x"
    if kind == "read-only":
        path = Path("/proc/sys/datago-cache")  # nobody can make a folder there, whoever runs the tests
    else:
        path.touch()
        path = path / "y" if kind == "below a file" else path
    assert load(config_of(path), refs(server), refs(server)) == [PICTURES] * 2
    assert len(server.requests) == 16
    assert len(told(caplog)) == 1


def test_the_folder_may_be_deleted_at_any_time(
    server: MisbehavingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, cache_path = config_of(tmp_path / "cache"), tmp_path / "cache"

    async def work(epoch: Epoch, _: CacheFolder) -> None:
        for number in range(6):
            outcomes = await epoch(refs(server))
            assert [each.payload for each in outcomes if isinstance(each, Admitted)] == PICTURES
            if number in (1, 3):
                cache_path.rename(tmp_path / str(number))
                shutil.rmtree(tmp_path / str(number))

    run(config, work)
    # After each deletion one epoch finds out, at the latest the next one fills the folder again.
    assert 8 * 3 <= len(server.requests) <= 8 * 5
    before = len(server.requests)
    assert load(config, refs(server)) == [PICTURES]
    assert len(server.requests) == before
    assert told(caplog) == []


def test_damaged_entries_are_fetched_again_with_one_warning(
    server: MisbehavingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, blocks=8)
    load(config, refs(server))
    paths = sorted((tmp_path / FORM_FOLDER).glob("??/*"))
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[3].read_bytes())
    content = bytearray(paths[4].read_bytes())
    content[200] ^= 1
    paths[4].write_bytes(content)
    assert load(config, refs(server), refs(server)) == [PICTURES] * 2
    assert len(server.requests) == 8 + 4
    assert [words.partition("has a")[2][:14] for words in told(caplog)] == [" damaged entry"]


def test_a_disk_that_hangs_while_entries_are_counted_holds_up_nothing(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def hang(*_: object) -> None:
        let_go.wait(60)
        raise OSError("too late")

    monkeypatch.setattr("datago_gpu.sources.cache.cache_folder._COUNT_S", 0.05)
    monkeypatch.setattr("datago_gpu.sources.cache.cache_folder.SharedRoom", hang)
    try:
        assert load(config_of(tmp_path), refs(server), refs(server)) == [PICTURES] * 2
        assert len(server.requests) == 16
    finally:
        let_go.set()


def test_two_ranks_share_what_each_of_them_brings(server: MisbehavingServer, tmp_path: Path) -> None:
    config = config_of(tmp_path, blocks=6)

    async def work(epoch: Epoch, _: CacheFolder) -> None:
        with CacheFolder.of(config) as other:
            for _number in range(3):
                mine, others = refs(server)[::2], refs(server)[1::2]
                async with HttpClient(config.http_config) as http, remote_of(config, http, []) as remote:
                    fetcher = Fetcher(config, remote, cache=other)
                    await asyncio.gather(epoch(mine), *(fetcher([ref], Budget(2**30).claim()) for ref in others))
                    fetcher.close()

    run(config, work)
    assert len(server.requests) == 8 + 2 + 2
    assert len(list((tmp_path / FORM_FOLDER).glob("??/*"))) == 6


def bucket_config(endpoint: str, proxy: str, cache: Path, **more: Any) -> LoaderConfig:
    options = {"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}
    return LoaderConfig.load(
        {
            "source_type": "file",
            "source_config": {"root_path": "s3://mine/photos", "storage_options": options, **more},
            "http_config": {"proxy": proxy, "max_tries": 1},
            "cache_config": {"path": str(cache), "size_gb": 1},
        }
    )


def load_bucket(config: LoaderConfig) -> dict[str, bytes]:
    async def main() -> dict[str, bytes]:
        async with remote_of(config, None, []) as remote:
            with CacheFolder.of(config) as cache:
                fetcher = Fetcher(config, remote, cache=cache)
                async with aclosing(open_source(config, None, None, cache).refs(Position())) as listed:
                    found = [ref async for ref in listed if isinstance(ref, SampleRef)]
                lots = await asyncio.gather(*(fetcher([ref], Budget(2**30).claim()) for ref in found))
                fetcher.close()
                return {each.ref.id: each.payload for (each,) in lots if isinstance(each, Admitted)}

    return asyncio.run(main())


@pytest.mark.parametrize(
    "more", [{}, {"random_sampling": True}, {"captions": "txt"}], ids=["listed", "shuffled", "captions"]
)
def test_an_object_that_was_replaced_is_requested_again_and_no_other(tmp_path: Path, more: dict[str, Any]) -> None:
    """The listing has the ETag. A caption is requested again when the ETag of it or of its image has changed."""
    objects = [(f"photos/{number}.jpg", picture) for number, picture in enumerate(PICTURES[:3])]
    texts = [(f"photos/{number}.txt", b"a picture") for number in range(3)] if "captions" in more else []
    with (
        s3_server("mine", [*objects, *texts]) as endpoint,
        ForwardProxy({"192.0.2.7": int(endpoint.rpartition(":")[2])}) as proxy,
    ):
        config = bucket_config("http://192.0.2.7", proxy.url, tmp_path, **more)

        def requested() -> list[str]:
            asked = [line.partition("/photos/")[2] for line in proxy.asked if "/photos/" in line]
            proxy.asked.clear()
            return sorted(asked)

        names = [key.removeprefix("photos/") for key, _ in [*objects, *texts]]
        first = load_bucket(config)
        assert first == {f"{number}.jpg": PICTURES[number] for number in range(3)}
        assert requested() == sorted(names)
        assert load_bucket(config) == first
        assert requested() == []
        client = s3_client(endpoint)
        client.put_object(Bucket="mine", Key="photos/1.jpg", Body=PICTURES[7])
        client.close()
        assert load_bucket(config) == {**first, "1.jpg": PICTURES[7]}
        assert requested() == [name for name in sorted(names) if name.startswith("1.")]


def test_buckets_of_one_name_on_two_servers_are_two(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    sources = [
        LoaderConfig.load_for_rows({"source_config": {"storage_options": {"endpoint": f"http://host-{number}"}}})
        for number in range(2)
    ]

    async def main() -> None:
        with CacheFolder.of(config) as cache:
            one, other = map(cache.of_source, sources)
            miss = await one.find("s3://b/a.jpg", None, "", 100, 100)
            assert isinstance(miss, Miss)
            await one.keep(miss, b"one")
            assert await one.find("s3://b/a.jpg", None, "", 100, 100) == b"one"
            assert isinstance(await other.find("s3://b/a.jpg", None, "", 100, 100), Miss)

    asyncio.run(main())
