"""The memory of what is fetched ahead: no more than the settings say, whatever comes, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datago_gpu import Loader
from datago_gpu.feeder.prefetch_budget import FREE_BYTES, Budget, Claim
from datago_gpu.feeder.window import Outcome, Waits, Window
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from tests.feeder.test_fetch import Stream, admitted, index_of
from tests.support.bounds import MiB
from tests.support.listing import KEY, Listing, names
from tests.support.patience import rest
from tests.support.servers import Answer, MisbehavingServer


@settings(max_examples=60)
@given(
    sizes=st.lists(st.lists(st.integers(0, 3 * FREE_BYTES), min_size=1, max_size=3), min_size=1, max_size=40),
    capacity=st.integers(1, 8 * FREE_BYTES),
    workers=st.integers(1, 9),
    window_size=st.integers(1, 20),
    ordered=st.booleans(),
    rests=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    stalls=st.sampled_from([0, 1, 100]),
)
def test_nothing_passes_the_budget_but_what_comes_next_and_nothing_hangs(
    sizes: list[list[int]], capacity: int, workers: int, window_size: int, ordered: bool, rests: list[int], stalls: int
) -> None:
    """Payloads of any sizes, in any number of parts, at any speed on both sides.

    stalls: turns of the loop for which each result is kept waiting, as by a trainer that takes its time.
    """
    budgets: list[Budget] = []
    largest = max(sum(parts) for parts in sizes) + FREE_BYTES + len(SampleInfo("").attributes)

    async def work(refs: list[SampleRef], claim: Claim) -> list[Outcome]:
        (ref,) = refs
        payload = b""
        for size in sizes[ref.index]:
            for _ in range(rests[ref.index % len(rests)]):
                await asyncio.sleep(0)
            await claim.need(size)
            assert budgets[0].held <= capacity + largest
            payload += bytes(size)
            claim.use(size)
        return [admitted(ref, payload)] if payload else [Skipped(ref.index, "", "", "empty")]

    async def main() -> list[int]:
        seen: list[int] = []
        window = Window(
            Stream(len(sizes)).refs(),  # type: ignore[arg-type]
            work,
            size=window_size,
            most_bytes=capacity,
            chunk=1,
            workers=workers,
            ordered=ordered,
            launched=lambda _ref: None,
            waits=Waits(),
        )
        budgets.append(window._budget)
        window._usual_bytes = 1.0  # as if all had been small so far
        window._fitting = window._how_many_fit()
        async with window:
            async for outcomes in window.results():
                seen += map(index_of, outcomes)
                for _ in range(rests[len(seen) % len(rests)] + stalls):
                    await asyncio.sleep(0)
                    assert budgets[0].held <= capacity + largest
        assert budgets[0].held == 0
        return seen

    seen = asyncio.run(asyncio.wait_for(main(), 20))
    assert sorted(seen) == list(range(len(sizes)))
    assert seen == sorted(seen) or not ordered


def test_the_oldest_goes_first_and_a_late_one_waits_behind_those_that_wait() -> None:
    async def main() -> None:
        budget, order = Budget(10), list[str]()
        first, second, third, fourth = (budget.claim() for _ in range(4))

        async def take(name: str, claim: Claim, size: int) -> None:
            await claim.need(size)
            order.append(name)

        await take("first", first, 8)
        waiting = [
            asyncio.create_task(take(*each))
            for each in (("third", third, 9), ("second", second, 5), ("fourth", fourth, 1))
        ]
        await asyncio.sleep(0)
        assert order == ["first"]
        await take("first again", first, 50)
        first.settle(4)
        await asyncio.sleep(0)
        assert order == ["first", "first again", "second"]
        second.settle(5)
        budget.hand_out(first)
        await asyncio.sleep(0)
        assert order[3:] == []  # the next to be handed out is settled
        budget.hand_out(second)
        await asyncio.gather(*waiting)
        assert order[3:] == ["third", "fourth"]

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_no_claim_passes_the_budget_while_another_can_be_handed_out(ordered: bool) -> None:
    """With a trainer that stood still, one after the other became the oldest that was not settled, and was granted."""

    async def main() -> None:
        budget = Budget(10, ordered=ordered)
        claims = [budget.claim() for _ in range(20)]

        async def work(claim: Claim) -> None:
            await claim.need(8)
            claim.settle(8)

        tasks = [asyncio.create_task(work(claim)) for claim in claims]
        for claim in claims:
            for _ in range(100):
                await asyncio.sleep(0)
            assert budget.held == 8
            budget.hand_out(claim)
        await asyncio.gather(*tasks)
        assert budget.held == 0

    asyncio.run(main())


def test_one_that_is_cancelled_while_it_waits_leaves_the_others_alone() -> None:
    async def main() -> None:
        budget = Budget(10)
        claims = [budget.claim() for _ in range(3)]
        await claims[0].need(10)
        waiting = [asyncio.create_task(claim.need(5)) for claim in claims[1:]]
        await asyncio.sleep(0)
        waiting[0].cancel()
        claims[0].settle(0)
        budget.hand_out(claims[0])
        await waiting[1]
        assert claims[2].held == 5

    asyncio.run(main())


def large_jpeg(size: int) -> bytes:
    """A small picture that is large by its comments: the feeder hands it on as it is."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 9)).save(file, "JPEG")
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    return file.getvalue()[:2] + comment * (size // len(comment)) + file.getvalue()[2:]


SMALL, LARGE = large_jpeg(0), large_jpeg(8 * MiB)
COUNTS = 300, 48
"""Small ones first: by them, all of the large ones fit."""


def memory_mb(pid: int) -> float:
    """Of memory that is the process's own. 0 where it has ended: its last batches may still be on their way."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    return 0.0


def load(source_type: str, source: dict[str, Any], processes: int = 0) -> float:
    """The memory of the feeder at the most, as seen whenever a batch comes, of which each takes a while."""
    config = {
        "source_type": source_type,
        "source_config": source,
        "batch_size": 4,
        "prefetch_memory_mb": 32,
        "bucket_memory_mb": 32,
        "arena_mb": 64,
        "samples_buffer_size": 4,
        "http_config": {"max_payload_mb": 16, "download_processes": processes},
    }
    with Loader(config, device="cpu", backend="pillow") as loader:
        peaks, count = [0.0], 0
        for batch in loader:
            count += len(batch)
            peaks.append(memory_mb(loader.feeder_pid))
        assert count == sum(COUNTS)
        assert not loader.stats().skipped
    assert max(peaks) > 0
    return max(peaks)


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


MOST_MB = 60 + 32 + 32 + 14 * 8
"""Python and its modules; what is fetched ahead; what is grouped; and fourteen payloads on their way between these: in
a batch that is sent, asked for twice, or put together from pieces. Most runs need ten. Without the bound it was 444.
"""


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_large_payloads_behind_small_ones_keep_to_the_memory(
    server: MisbehavingServer, processes: int, chunked: bool
) -> None:
    """48 of 8 MiB were 384 MiB."""
    listing = Listing(server, names(sum(COUNTS)))
    for number, (name, entry) in enumerate(listing.entries.items()):
        body = SMALL if number < COUNTS[0] else LARGE
        entry["image_direct_url"] = server.script(f"/files/{name}", Answer(200, body, chunked=chunked))
    assert load("db", {"api_url": listing.api_url, "api_key": KEY}, processes) < MOST_MB


def test_large_files_behind_small_ones_keep_to_the_memory(tmp_path: Path) -> None:
    for number in range(sum(COUNTS)):
        (tmp_path / f"{number:03}.jpg").write_bytes(SMALL if number < COUNTS[0] else LARGE)
    assert load("file", {"root_path": str(tmp_path)}) < MOST_MB


def test_a_trainer_that_stands_still_does_not_fill_the_memory(server: MisbehavingServer) -> None:
    """At the start eight payloads are expected to fit. They are larger, and all eight were fetched: 192 MiB."""
    listing = Listing(server, names(12))
    url = server.script("/large", Answer(200, large_jpeg(24 * MiB)))
    for entry in listing.entries.values():
        entry["image_direct_url"] = url
    config = {
        "source_type": "db",
        "source_config": {"api_url": listing.api_url, "api_key": KEY},
        "batch_size": 1,
        "prefetch_memory_mb": 64,
        "arena_mb": 64,
        "samples_buffer_size": 1,
        "http_config": {"max_payload_mb": 32},
    }
    with Loader(config, device="cpu", backend="pillow") as loader:
        next(iter(loader))
        rest(loader.feeder_pid)
        assert memory_mb(loader.feeder_pid) < 60 + 64 + 2 * 24
        assert 1 + sum(map(len, loader)) == 12
