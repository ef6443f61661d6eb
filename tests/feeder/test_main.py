"""The feeder's main coroutine, in this process and for every kind of source: nothing that it began stays open.

tests/conftest.py looks for asynchronous generators that are left, which nobody could see in a process of its own.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import msgpack

from datago_gpu import eventloop
from datago_gpu.config import LoaderConfig
from datago_gpu.feeder import main, wire
from datago_gpu.feeder.wire import Resume
from datago_gpu.sources.reference import Position
from datago_gpu.units import MiB
from tests.support.images import add_picture, add_pictures, file_config
from tests.support.servers import Answer, MisbehavingServer, json_answer
from tests.support.shards import shard_config, tar_bytes

WAIT_S = 20
COUNT = 20
SHUFFLED = {"random_sampling": True, "shuffle_buffer": 5}


def files(root: Path, server: MisbehavingServer, **more: Any) -> LoaderConfig:
    add_pictures(root, [(40, 40)] * COUNT)
    return file_config(root, source=more)


def shard_names(root: Path) -> list[str]:
    """Writes four shards of five pictures; their names."""
    payload = add_picture(root / "a.jpg").read_bytes()
    names = [f"{number}.tar" for number in range(4)]
    for name in names:
        (root / name).write_bytes(tar_bytes((f"{name[0]}-{sample}.jpg", payload) for sample in range(COUNT // 4)))
    return names


def shards(root: Path, server: MisbehavingServer, **more: Any) -> LoaderConfig:
    shard_names(root)
    return shard_config(root / "*.tar", **more)


def shards_over_http(root: Path, server: MisbehavingServer, **more: Any) -> LoaderConfig:
    urls = [server.script(f"/{name}", Answer(200, (root / name).read_bytes())) for name in shard_names(root)]
    return shard_config("::".join(urls), **more)


def dataroom(root: Path, server: MisbehavingServer, **more: Any) -> LoaderConfig:
    """Lists pages of four images. The server's own draws bring the first page, again and again."""
    url = server.script("/a.jpg", Answer(200, add_picture(root / "a.jpg").read_bytes()))
    entries = [{"id": f"{number:03}", "image_direct_url": url} for number in range(COUNT)]
    first, *others = [entries[begin : begin + 4] for begin in range(0, COUNT, 4)]
    later = [f"{server.url}/api/images/?page={number}" for number in range(1, 1 + len(others))]
    answers = [json_answer({"results": page, "next": following})
               for page, following in zip([first, *others], [*later, None], strict=True)]  # fmt: skip
    server.route("/api/images/", lambda request: answers[int(request.parameters.get("page", 0))])
    server.script("/api/images/random/", answers[0])
    server.script("/api/images/count/", json_answer({"count": COUNT}))
    source = {"api_url": f"{server.url}/api/", "api_key": "k", "check_count": False, "page_size": 4, **more}
    return LoaderConfig.load({"source_type": "db", "source_config": source, "limit": COUNT})


SOURCES = {
    "files": (files, {}),
    "files, shuffled": (files, {"random_sampling": True}),
    "shards": (shards, {"interleave": 2}),
    "shards, shuffled": (shards, SHUFFLED),
    "shards over http": (shards_over_http, {"interleave": 2}),
    "shards over http, shuffled": (shards_over_http, SHUFFLED),
    "a dataroom": (dataroom, {}),
    "a dataroom, shuffled": (dataroom, SHUFFLED),
    "a dataroom's own draws": (dataroom, {"random_sampling": True, "random_method": "server"}),
}


async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, wire.Ended | wire.Failed]:
    """How many samples a feeder sends, and its last message. What it sends is reported as decoded."""
    count = 0
    while True:
        message = msgpack.decode(await wire.read(reader), type=wire.FromFeeder)
        if isinstance(message, wire.EncodedBatch):
            count += len(message.ids)
            writer.write(wire.frame(wire.Report(message.number)))
        elif isinstance(message, wire.Ended | wire.Failed):
            return count, message


@asynccontextmanager
async def feeder(
    config: LoaderConfig, resume: Resume
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Task[None]]]:
    """A feeder that runs here as a task, and its trainer's end of the socket. The trainer goes away after the block."""
    ours, theirs = socket.socketpair()
    memory = mmap.mmap(-1, config.arena_mb * MiB)
    async with asyncio.timeout(WAIT_S):
        serving = asyncio.create_task(main._serve(theirs.detach(), memory, os.getppid(), [], None))
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(wire.frame(wire.Start(msgspec.json.encode(config), resume)))
        yield reader, writer, serving
        writer.close()
        with suppress(ConnectionError):  # the feeder may have ended before the last report came
            await writer.wait_closed()


def served(config: LoaderConfig, resume: Resume) -> tuple[int, wire.Ended | wire.Failed]:
    """Runs a feeder to its end; as `taken`."""
    found: list[tuple[int, wire.Ended | wire.Failed]] = []

    async def main() -> None:
        async with feeder(config, resume) as (reader, writer, serving):
            found.append(await taken(reader, writer))
            await serving
        assert asyncio.all_tasks() == {asyncio.current_task()}

    eventloop.run(main())
    return found[0]


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feeder leaves its process when its trainer is gone; here that would be the process of the tests."""
    monkeypatch.setattr(main.os, "_exit", pytest.fail)


HALF_WAY = Resume(Position(0, 2), [(4, 6)], 5)
ENDS = {
    "at its end": ({}, Resume(), COUNT),
    "at its limit": ({"limit": 2, "batch_size": 1}, Resume(), 2),
    "after it was resumed": ({}, HALF_WAY, COUNT - 5),
    "after it was resumed, at its limit": ({"limit": 7, "batch_size": 1}, HALF_WAY, 2),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("how", ENDS)
def test_a_stream_closes_all_that_it_began(tmp_path: Path, server: MisbehavingServer, kind: str, how: str) -> None:
    make, more = SOURCES[kind]
    changes, resume, expected = ENDS[how]
    count, end = served(msgspec.structs.replace(make(tmp_path, server, **more), **changes), resume)
    assert isinstance(end, wire.Ended)
    assert count == expected or ("draws" in kind and 0 < count < expected)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_stream_that_fails_half_way_closes_all_that_it_began(
    tmp_path: Path, server: MisbehavingServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would where memory runs out, which no layer expects."""
    make, more = SOURCES[kind]

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("datago_gpu.feeder.production.Production._send", fail)
    count, end = served(make(tmp_path, server, **more), Resume())
    assert isinstance(end, wire.Failed)
    assert end.message.startswith("the feeder process is out of memory")
    assert count == 0
