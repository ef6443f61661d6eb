"""Whatever is raised, wherever: it ends the stream with its words. No task and no thread ends in silence.

The feeder's main coroutine runs in this process, and one function of it raises what a library might.
"""

from __future__ import annotations

import asyncio
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import datago_gpu
from datago_gpu import eventloop
from datago_gpu.config import LoaderConfig
from datago_gpu.eventloop import Abrupt
from datago_gpu.feeder import main, wire
from datago_gpu.feeder.download import downloader
from datago_gpu.feeder.wire import Resume
from datago_gpu.sources.http.deadlines import Deadline
from tests.feeder.test_main import SHUFFLED, dataroom, feeder, files, shards, shards_over_http, taken
from tests.support.patience import end_of_threads
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import shard_config

WAIT_S = 20


class Panic(BaseException):
    """As of a library in Rust: no Exception."""


ERRORS: list[type[BaseException]] = [
    RuntimeError,
    Panic,
    SystemExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
    StopIteration,
    StopAsyncIteration,
]


def in_object_storage(root: Path, server: MisbehavingServer, **more: Any) -> LoaderConfig:
    options = {"endpoint": server.url, "access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
    return shard_config(more.pop("url", "s3://bucket/a.tar"), storage_options=options, **more)


def whole_dataroom(root: Path, server: MisbehavingServer, **more: Any) -> LoaderConfig:
    return msgspec.structs.replace(dataroom(root, server, **more), limit=None)


def endless_files(root: Path, server: MisbehavingServer, **more: Any) -> LoaderConfig:
    return msgspec.structs.replace(files(root, server, **more), epochs=None)


Make = Callable[..., LoaderConfig]
PLACES: dict[str, tuple[Make, dict[str, Any]]] = {
    "sources.listed_images.Images.refs": (files, {}),
    "sources.folders._entries": (files, {}),
    "sources.order.ShuffledShare.numbers": (files, {"random_sampling": True}),
    "feeder.fetch.Fetcher.__call__": (files, {}),
    "feeder.fetch.Fetcher._read": (files, {}),
    "feeder.admit.Admission.quick": (files, {}),
    "feeder.grouper.Grouper.add": (files, {}),
    "feeder.message.Layout.message": (files, {}),
    "feeder.pack.Packer.send": (files, {}),
    "feeder.pack.Packer._take_in": (endless_files, {}),
    "sources.webdataset.shard_list.list_addresses": (shards, {}),
    "sources.webdataset.shard_reader.OpenShard.__init__": (shards, {"interleave": 2}),
    "sources.webdataset.grouping.Collector.begin": (shards, {}),
    "sources.webdataset.tar.TarStream.read": (shards, SHUFFLED),
    "sources.http.http_client.HttpClient.stream": (shards_over_http, {"interleave": 2}),
    "sources.object_store.stores.Stores._at": (in_object_storage, {}),
    "sources.object_store.stores.Stores.stream": (in_object_storage, {}),
    "sources.object_store.stores.Stores.list_objects": (in_object_storage, {"url": "s3://bucket/prefix/"}),
    "sources.dataroom.api.DataroomApi.page": (dataroom, {}),
    "sources.dataroom.api.DataroomApi.count": (whole_dataroom, {"check_count": True}),
    "sources.dataroom.api.read_page": (dataroom, SHUFFLED),
    "sources.http.hedge.HedgedClient.get": (dataroom, {}),
    "sources.http.http_client.HttpClient.get": (dataroom, {"random_sampling": True, "random_method": "server"}),
}


def broken(name: str, error: type[BaseException], at: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have a function of the package raise at its call number `at`. Returns a list that holds that number then."""
    place = f"datago_gpu.{name}"
    original = pkgutil.resolve_name(place)
    calls, raised = [0], list[int]()

    def count() -> None:
        calls[0] += 1
        if calls[0] == at:
            raised.append(at)
            raise error("boom")

    if inspect.iscoroutinefunction(original):

        async def awaited(*arguments: Any, **options: Any) -> Any:
            count()
            return await original(*arguments, **options)

        monkeypatch.setattr(place, awaited)
    else:

        def called(*arguments: Any, **options: Any) -> Any:
            count()
            return original(*arguments, **options)

        monkeypatch.setattr(place, called)
    return raised


def end_of(config: LoaderConfig) -> wire.Ended | wire.Failed:
    """The last message of a feeder that runs here; then its trainer goes away, as a trainer does after an error."""
    found: list[wire.Ended | wire.Failed] = []

    async def main() -> None:
        async with feeder(config, Resume()) as (reader, writer, serving):
            _, end = await taken(reader, writer)
            found.append(end)
            if isinstance(end, wire.Failed):
                serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    eventloop.run(main())
    return found[0]


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A feeder leaves its process when its trainer is gone; here that would be the process of the tests. What it leaves
    here are threads: they would call what the next test has broken."""
    monkeypatch.setattr(main.os, "_exit", lambda _status: None)
    yield
    end_of_threads()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("at", [1, 3])
def test_an_error_of_any_kind_anywhere_ends_the_stream_with_its_words(
    tmp_path: Path,
    server: MisbehavingServer,
    place: str,
    error: type[BaseException],
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, more = PLACES[place]
    config = make(tmp_path, server, **more)
    raised = broken(place, error, at, monkeypatch)
    end = end_of(config)
    if raised:
        assert isinstance(end, wire.Failed)
        assert "boom" in end.message
        assert error.__name__ in end.message
    else:
        assert at > 1


def test_an_error_of_a_timer_ends_the_stream(
    tmp_path: Path, server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that timer no request would ever be given up."""
    config = dataroom(tmp_path, server)
    server.script("/a.jpg", Answer(silent=True))

    def look(*_: object) -> bool:
        raise Panic("boom")

    monkeypatch.setattr(Deadline, "goes_on", look)
    end = end_of(config)
    assert isinstance(end, wire.Failed)
    assert "Panic: boom" in end.message


def test_errors_of_tasks_and_callbacks_that_nobody_awaits_are_told_at_once() -> None:
    told: list[BaseException] = []

    async def fail(error: BaseException) -> None:
        raise error

    async def main() -> None:
        eventloop.catch_lost_errors(told.append)
        for error in ERRORS:
            task = eventloop.watched(fail(error("boom")))
            await asyncio.wait([task])
            await asyncio.sleep(0)

    asyncio.run(main())
    assert len(told) == len(ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_what_asyncio_cannot_carry_is_the_cause_of_what_it_can(error: type[BaseException]) -> None:
    given = error("boom")

    def fail() -> None:
        raise given

    async def awaited() -> None:
        raise given

    async def main() -> None:
        for work in (eventloop.call_in_thread(None, fail), eventloop.guarded(awaited())):
            with pytest.raises((Abrupt, RuntimeError)) as caught:
                await work
            assert given in (caught.value, caught.value.__cause__)

    asyncio.run(main())


def test_only_one_place_hands_work_to_threads() -> None:
    """asyncio's own ways lose a StopIteration, and with it whoever waits."""
    package = Path(datago_gpu.__file__).parent
    files = [path for folder in ("feeder", "sources") for path in (package / folder).rglob("*.py")]
    assert len(files) > 50
    assert [path for path in files if re.search(r"to_thread|run_in_executor", path.read_text())] == []


def test_a_task_that_is_told_to_end_ends() -> None:
    async def main() -> None:
        task = asyncio.create_task(eventloop.guarded(asyncio.sleep(WAIT_S)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_process_that_downloads_ends_with_its_error_as_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(downloader.os, "_exit", codes.append)
    downloader._leave(Panic("boom"))
    assert codes == [1]
    assert "Panic: boom" in capsys.readouterr().err
