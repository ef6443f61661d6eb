"""Payloads into memory, and the window: how far ahead it runs, in which order it hands out, and how it ends."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.errors import SourceError
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.prefetch_budget import Budget, Claim
from datago_gpu.feeder.window import Outcome, Waits, Window, Work
from datago_gpu.imaging.geometry import full_region
from datago_gpu.sources.http.hedge import HedgedClient
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.local import read_whole
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.images import add_picture, file_config
from tests.support.servers import Answer, MisbehavingServer

WAIT_S = 10


class Recorder:
    """Stands where a fetch would: each call ends when the test says so, or at once with `open_`."""

    def __init__(self, *, open_: bool = False) -> None:
        self.open = open_
        self.waiting: dict[int, asyncio.Event] = {}
        self.most_under_way = 0
        self.cancelled = 0

    async def __call__(self, refs: list[SampleRef], claim: Claim) -> list[Outcome]:
        ended = asyncio.Event()
        self.waiting.update((ref.index, ended) for ref in refs)
        self.most_under_way = max(self.most_under_way, len(self.waiting))
        try:
            if not self.open:
                await ended.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            for ref in refs:
                del self.waiting[ref.index]
        return [outcome(ref.index) for ref in refs]

    def finish(self, index: int) -> None:
        self.waiting[index].set()


def outcome(index: int) -> Outcome:
    return Skipped(index, str(index), "", "fetched")


def admitted(ref: SampleRef, payload: bytes) -> Outcome:
    return Admitted(ref, payload, (1, 1), 1, full_region(1, 1), (1, 1), full_region(1, 1), None)


class Stream:
    """Numbers as references, up to an end or an error; notes how many were asked for and that it was closed."""

    def __init__(self, count: int, error: Exception | None = None, skips: frozenset[int] = frozenset()) -> None:
        self.count, self.error, self.skips = count, error, skips
        self.listed = 0

    async def refs(self) -> AsyncIterator[SampleRef | Skipped]:
        for index in range(self.count):
            self.listed += 1
            if index in self.skips:
                yield Skipped(index, str(index), "", "by the source")
            else:
                yield SampleRef(index, SampleInfo(str(index)))
        if self.error:
            raise self.error


def window(stream: Stream, work: Work, **more: Any) -> Window:
    settings = {"size": 4, "most_bytes": 2**30, "chunk": 1, "workers": 8, "ordered": True,
                "launched": lambda _ref: None, "waits": Waits()}  # fmt: skip
    return Window(stream.refs(), work, **{**settings, **more})


async def settle() -> None:
    """Let everything that can run now run until it waits."""
    for _ in range(50):
        await asyncio.sleep(0)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run to the end, within a time, and show that no task is left."""

    async def whole() -> None:
        await asyncio.wait_for(main(), WAIT_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


async def collect(from_: Window, into: list[int] | None = None) -> list[int]:
    seen = [] if into is None else into
    async for outcomes in from_.results():
        seen += map(index_of, outcomes)
    return seen


def index_of(each: Outcome) -> int:
    return each.index if isinstance(each, Skipped) else each.ref.index


def test_results_come_in_the_order_of_the_references_whatever_ends_first() -> None:
    async def main() -> None:
        work = Recorder()
        async with window(Stream(4), work) as ahead:
            results = asyncio.create_task(collect(ahead))
            await settle()
            for index in (3, 1, 0, 2):
                work.finish(index)
                await settle()
            assert await results == [0, 1, 2, 3]

    run(main)


def test_unordered_results_come_as_they_end() -> None:
    async def main() -> None:
        work = Recorder()
        async with window(Stream(4), work, ordered=False) as ahead:
            results = asyncio.create_task(collect(ahead))
            await settle()
            for index in (3, 1, 0, 2):
                work.finish(index)
                await settle()
            assert await results == [3, 1, 0, 2]

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("size", "workers"), [(1, 8), (4, 8), (8, 3)])
def test_no_more_than_the_window_and_the_workers_are_under_way(ordered: bool, size: int, workers: int) -> None:
    async def main() -> None:
        work, stream = Recorder(), Stream(20)
        async with window(stream, work, size=size, workers=workers, ordered=ordered) as ahead:
            results = asyncio.create_task(collect(ahead))
            for _ in range(20):
                await settle()
                assert len(work.waiting) <= min(size, workers)
                assert stream.listed - (20 - len(work.waiting)) <= size + 1
                if work.waiting:
                    work.finish(min(work.waiting))
            await results
        assert work.most_under_way == min(size, workers)

    run(main)


def test_nothing_is_fetched_ahead_of_a_slow_taker_beyond_the_window() -> None:
    async def main() -> None:
        work, stream = Recorder(open_=True), Stream(100)
        async with window(stream, work, size=4) as ahead:
            results = ahead.results()
            for taken in range(10):
                assert list(map(index_of, await anext(results))) == [taken]
                await settle()
                assert stream.listed <= taken + 4 + 1
            await results.aclose()

    run(main)


@pytest.mark.parametrize("chunk", [1, 8])
@pytest.mark.parametrize("ordered", [True, False])
def test_the_fewer_are_fetched_ahead_the_larger_they_are(ordered: bool, chunk: int) -> None:
    large, small, changes_at = bytes(2**20), b"small", 200
    under_way: dict[int, int] = {}

    async def work(refs: list[SampleRef], _claim: Claim) -> list[Outcome]:
        return [admitted(ref, large if ref.index < changes_at else small) for ref in refs]

    async def main() -> None:
        stream = Stream(600)
        async with window(
            stream, work, size=64, workers=64, most_bytes=10 * len(large), ordered=ordered, chunk=chunk
        ) as ahead:
            taken = 0
            async for outcomes in ahead.results():
                taken += len(outcomes)
                await settle()
                under_way[taken] = stream.listed - taken
        assert taken == 600

    run(main)
    # One more is listed than is begun. At first they count as 8 MiB each, then as what the last ones took.
    assert max(count for taken, count in under_way.items() if taken < changes_at) <= 10 + 1
    assert max(count for taken, count in under_way.items() if taken > 150) > 60
    assert min(count for taken, count in under_way.items() if 150 < taken < changes_at) >= 10 - chunk


@pytest.mark.parametrize("ordered", [True, False])
def test_skips_of_the_source_take_part_in_the_order_and_in_the_bound(ordered: bool) -> None:
    async def main() -> None:
        stream = Stream(1000, skips=frozenset(range(1, 1000)))
        async with window(stream, Recorder(open_=True), ordered=ordered) as ahead:
            await settle()
            assert stream.listed <= 4 + 1
            seen = await collect(ahead)
            assert (seen if ordered else sorted(seen)) == list(range(1000))

    run(main)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("ordered", [True, False])
def test_wanting_nothing_holds_the_stream_and_wanting_more_goes_on(ordered: bool, chunk: int) -> None:
    async def main() -> None:
        work = Recorder(open_=True)
        async with window(Stream(7), work, ordered=ordered, chunk=chunk) as ahead:
            ahead.want(0)
            results = asyncio.create_task(collect(ahead))
            await settle()
            assert work.most_under_way == 0
            ahead.want(2)
            assert await results == list(range(7))
            assert 1 <= work.most_under_way <= 2

    run(main)


@pytest.mark.parametrize("chunk", [1, 8])
@pytest.mark.parametrize("wanted", [1, 3, 100])
def test_no_more_than_is_wanted_is_under_way(chunk: int, wanted: int) -> None:
    async def main() -> None:
        work = Recorder(open_=True)
        async with window(Stream(30), work, size=12, chunk=chunk) as ahead:
            ahead.want(wanted)
            assert await collect(ahead) == list(range(30))
        assert work.most_under_way <= min(wanted, 12)

    run(main)


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_of_the_stream_is_raised_behind_everything_before_it(ordered: bool, chunk: int) -> None:
    async def main() -> None:
        seen: list[int] = []
        async with window(Stream(7, SourceError("gone")), Recorder(open_=True), ordered=ordered, chunk=chunk) as ahead:
            with pytest.raises(SourceError, match="gone"):
                await collect(ahead, seen)
        assert sorted(seen) == list(range(7))

    run(main)


def test_an_error_of_the_work_is_raised_in_its_place() -> None:
    async def work(refs: list[SampleRef], _claim: Claim) -> list[Outcome]:
        if refs[0].index == 2:
            raise RuntimeError("a bug")
        return [outcome(ref.index) for ref in refs]

    async def main() -> None:
        seen: list[int] = []
        async with window(Stream(5), work) as ahead:
            with pytest.raises(RuntimeError, match="a bug"):
                await collect(ahead, seen)
        assert seen == [0, 1]

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_early_cancels_what_is_under_way_and_leaves_no_task(ordered: bool, taken: int) -> None:
    async def main() -> None:
        work = Recorder()
        async with window(Stream(20), work, ordered=ordered) as ahead:
            results = ahead.results()
            for index in range(taken):
                await settle()
                work.finish(index)
                await anext(results)
            await settle()
            under_way = len(work.waiting)
            assert under_way
            await results.aclose()
        assert not work.waiting
        assert work.cancelled == under_way

    run(main)


@given(
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
    st.integers(1, 2**25),
    st.frozensets(st.integers(0, 39)),
    st.integers(),
)
def test_every_reference_comes_out_once_whatever_the_timing(
    count: int, size: int, chunk: int, workers: int, ordered: bool, most_bytes: int, skips: frozenset[int], seed: int
) -> None:
    random = Random(seed)

    async def work(refs: list[SampleRef], _claim: Claim) -> list[Outcome]:
        for _ in range(random.randrange(5)):
            await asyncio.sleep(0)
        return [
            admitted(ref, bytes(random.randrange(2**17))) if random.random() < 0.5 else outcome(ref.index)
            for ref in refs
        ]

    async def main() -> None:
        launched: list[int] = []
        async with window(
            Stream(count, skips=skips),
            work,
            size=size,
            most_bytes=most_bytes,
            chunk=chunk,
            workers=workers,
            ordered=ordered,
            launched=lambda ref: launched.append(ref.index),
        ) as ahead:
            got: list[int] = []
            async for outcomes in ahead.results():
                got += map(index_of, outcomes)
                ahead.want(random.choice([1, 2, size]))
                for _ in range(random.randrange(3)):
                    await asyncio.sleep(0)
        assert sorted(got) == list(range(count))
        assert launched == list(range(count))
        if ordered:
            assert got == list(range(count))

    run(main)


def fetch(*refs: SampleRef, **more: Any) -> list[Outcome]:
    async def main() -> list[Outcome]:
        config = file_config("/images", **more)
        async with HttpClient(config.http_config) as http:
            fetcher = Fetcher(config, HedgedClient(http, config.http_config))
            try:
                return await asyncio.wait_for(fetcher(list(refs), Budget(2**40).claim()), WAIT_S)
            finally:
                fetcher.close()

    return asyncio.run(main())


def test_files_are_read_whole_and_admitted(tmp_path: Path) -> None:
    paths = [add_picture(tmp_path / name, color=number) for number, name in enumerate(("a.jpg", "b.png", "c.webp"))]
    outcomes = fetch(*(SampleRef(index, SampleInfo(path.name), path=str(path)) for index, path in enumerate(paths)))
    assert [each.payload for each in outcomes if isinstance(each, Admitted)] == [path.read_bytes() for path in paths]


class Short(io.FileIO):
    """A raw file whose reads return a few bytes each, as those of some network file systems do."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        return super().read(min(size, 7))


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 100])
def test_reads_that_come_short_are_gone_on_with(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(bytes(range(size)))
    for told in (size, size + 9):  # the file may have shrunk meanwhile
        with Short(tmp_path / "a") as file:
            assert read_whole(file, told) == bytes(range(size))


def test_what_goes_wrong_with_a_file_is_a_skip_in_its_place(tmp_path: Path) -> None:
    good = add_picture(tmp_path / "good.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "large.jpg").write_bytes(bytes(2**20 + 1))
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    names = ["good.jpg", "gone.jpg", "empty.jpg", "large.jpg", "folder.jpg", "text.jpg", "good.jpg"]
    outcomes = fetch(
        *(SampleRef(index, SampleInfo(name), path=str(tmp_path / name)) for index, name in enumerate(names))
    )
    assert isinstance(outcomes[0], Admitted)
    assert isinstance(outcomes[-1], Admitted)
    assert outcomes[-1].payload == good.read_bytes()
    assert [(each.index, each.reason, each.detail) for each in outcomes if isinstance(each, Skipped)] == [
        (1, "missing", ""),
        (2, "empty", ""),
        (3, "too-large", "1048577 bytes, above http_config.max_payload_mb"),
        (4, "unreadable", "Is a directory"),
        (5, "unknown-format", "begins with b'no image'"),
    ]


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    add_picture(Path(path))
    assert isinstance(fetch(SampleRef(0, SampleInfo("x"), path=path))[0], Admitted)


def test_closing_does_not_wait_for_a_file_that_hangs(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands in for a network disk that is gone."""
    os.mkfifo(tmp_path / "hangs.jpg")

    async def main() -> None:
        config = file_config(tmp_path)
        async with HttpClient(config.http_config) as http:
            fetcher = Fetcher(config, HedgedClient(http, config.http_config))
            task = asyncio.create_task(
                fetcher([SampleRef(0, SampleInfo("x"), path=str(tmp_path / "hangs.jpg"))], Budget(2**40).claim())
            )
            await settle()
            assert not task.done()
            fetcher.close()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(asyncio.wait_for(main(), WAIT_S))
    descriptor = os.open(tmp_path / "hangs.jpg", os.O_WRONLY)  # let the thread go
    os.close(descriptor)


def test_a_download_is_admitted_and_a_refused_one_is_a_skip(tmp_path: Path) -> None:
    photo = add_picture(tmp_path / "a.jpg").read_bytes()
    animation = add_picture(tmp_path / "a.gif").read_bytes()
    with MisbehavingServer() as server:
        for url, reason in [
            (server.script("/a.jpg", Answer(200, photo)), None),
            (server.script("/a.gif", Answer(200, animation)), None),
            (server.script("/empty.jpg", Answer(200)), "empty"),
            (server.script("/page.jpg", Answer(200, b"<html>")), "unknown-format"),
            (server.script("/large.jpg", Answer(200, bytes(2**20 + 1))), "too-large"),
            (server.script("/gone.jpg", Answer(404)), "http-404"),
        ]:
            (result,) = fetch(SampleRef(0, SampleInfo("x"), url=url + "?signature=secret"), http={"max_tries": 1})
            assert (result.reason if isinstance(result, Skipped) else None) == reason
            assert "secret" not in repr(result.where if isinstance(result, Skipped) else result.ref.where)


def test_an_expired_address_is_renewed_once(tmp_path: Path) -> None:
    photo = add_picture(tmp_path / "a.jpg").read_bytes()
    with MisbehavingServer() as server:
        old, new = server.script("/old", Answer(403)), server.script("/new", Answer(200, photo))
        renewals = []

        def ref(to: str) -> SampleRef:
            async def renew(part: str) -> str:
                assert not part
                renewals.append(to)
                return to

            return SampleRef(0, SampleInfo("x"), url=old, renew=renew)

        (renewed,) = fetch(ref(new))
        assert isinstance(renewed, Admitted)
        (refused,) = fetch(ref(old))
        assert isinstance(refused, Skipped)
        assert refused.reason == "http-403"
        assert renewals == [new, old]
        assert server.count("/old") == 3
