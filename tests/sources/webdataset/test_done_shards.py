"""A resumed run opens only the shards that it needs: the others are known to be done."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources import open_source
from datago_gpu.sources.done_ranges import DoneRanges
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import ListingDigest, PartlyDone, Position, SampleRef, Skipped
from datago_gpu.sources.webdataset.done_shards import ShardCounts, ShardShare
from tests.support.shards import record_opened, shard_config, write_shards

Listed = list[tuple[SampleRef | Skipped, ListingDigest | None]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return record_opened(monkeypatch)


def run(
    folder: str | Path, start: Position, listed: ListingDigest | None = None, *, accepts: bool = False, **source: Any
) -> Listed:
    """The samples from `start` on, each with what a state would know of the listing at that sample."""

    async def main() -> Listed:
        config = shard_config(folder, **source)
        async with HttpClient(config.http_config) as http:
            shards = open_source(config, http)
            shards.tally.expect(listed, accepts=accepts)
            async with aclosing(shards.refs(start)) as refs:
                return [(ref, shards.tally.listed) async for ref in refs]

    return asyncio.run(main())


def resume(whole: Listed, stop: int, waiting: set[int]) -> tuple[PartlyDone, ListingDigest | None]:
    """Where a run goes on of which the first `stop` samples are done, but for those that wait."""
    begin = min(waiting, default=min(stop, len(whole) - 1))
    first = whole[begin][0]
    assert isinstance(first, SampleRef)
    done = [(index, index) for index in range(begin, stop) if index not in waiting]
    listed = whole[stop - 1][1] if stop else None
    return PartlyDone.behind(Position(1, begin, first.cursor), done, listed), listed


@settings(max_examples=80)
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=9).filter(any),
    interleave=st.integers(1, 4),
    buffer=st.none() | st.integers(1, 12),
    world_size=st.sampled_from([1, 2, 12]),
    data=st.data(),
)
def test_any_resume_brings_the_rest_and_opens_what_it_needs(
    opened: list[int],
    counts: list[int],
    interleave: int,
    buffer: int | None,
    world_size: int,
    data: st.DataObject,
) -> None:
    shuffle: dict[str, Any] = {} if buffer is None else {"random_sampling": True, "shuffle_buffer": buffer}
    more = {"rank": 0, "world_size": world_size, "interleave": interleave, "seed": 5, **shuffle}
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), counts, size=100)
        opened.clear()
        whole: Listed = []
        with suppress(SourceError):  # all shards of this rank are empty
            whole = run(folder, Position(1), **more)
        assume(whole)
        stop = data.draw(st.integers(0, len(whole)))
        waiting = data.draw(st.sets(st.integers(0, max(0, stop - 1)), max_size=3)) if stop else set()
        start, listed = resume(whole, stop, waiting)
        order = list(dict.fromkeys(opened))
        opened.clear()
        rest = run(folder, start, listed, **more)
    left = waiting | set(range(stop, len(whole)))
    assert [(ref.index, ref.id) for ref, _ in rest if ref.index in left] == [
        (ref.index, ref.id) for ref, _ in whole if ref.index in left
    ]
    shards = [shard for shard, count in enumerate(counts) for _ in range(count)]
    shard_of = [shards[int(ref.id)] for ref, _ in whole]
    needed = {shard_of[index] for index in left}
    known = set(order[: len(expand(listed.samples))] if listed else ())
    unsure = sum(shard in known for shard in shard_of) - (buffer or 0)  # from here on, the buffer may still hold them
    perhaps = set(shard_of[max(0, unsure) :]) if buffer else set()
    assert len(opened) == len(set(opened))
    assert needed <= set(opened)
    assert set(opened) & known <= needed | perhaps, "more than what is needed"


def expand(samples: str) -> list[str]:
    counts = (part.partition("*") for part in samples.split(",") if part)
    return [count for count, _, times in counts for _ in range(int(times or 1))]


def test_one_sample_that_waits_costs_its_shard(tmp_path: Path, opened: list[int]) -> None:
    """In order and shuffled: 60 of 80 shards are done but for one sample of the first shard of the run."""
    write_shards(tmp_path, [10] * 80, size=100)
    for shuffle in ({}, {"random_sampling": True, "shuffle_buffer": 10}):
        whole = run(tmp_path, Position(1), interleave=2, concurrent_downloads=2, **shuffle)
        first = opened[0]
        opened.clear()
        start, listed = resume(whole, 600, {0})
        assert listed is not None
        assert expand(listed.samples)[:50] == ["10"] * 50
        rest = run(tmp_path, start, listed, interleave=2, concurrent_downloads=2, **shuffle)
        assert {ref.id for ref, _ in rest} >= {whole[0][0].id, *(ref.id for ref, _ in whole[600:])}
        assert first in opened
        assert 21 <= len(opened) <= 27
        assert len(listed.samples) < 8
        opened.clear()


def test_a_state_without_counts_reads_as_before(tmp_path: Path, opened: list[int]) -> None:
    """A state of an older package; and one of data that has changed, if the user accepts that."""
    write_shards(tmp_path, [3] * 6, size=100)
    whole = run(tmp_path, Position(1))
    start, listed = resume(whole, 15, {1})
    assert listed is not None
    opened.clear()
    bare = ListingDigest(listed.count, listed.digest, listed.marks, listed.lengths, whole=True)
    assert len(run(tmp_path, PartlyDone.behind(start, start.done, bare), bare)) == 17
    assert opened == [0, 1, 2, 3, 4, 5]
    (tmp_path / "006.tar").write_bytes((tmp_path / "000.tar").read_bytes())
    with pytest.raises(ConfigError, match="1 more shards follow"):
        run(tmp_path, start, listed)
    opened.clear()
    assert len(run(tmp_path, start, listed, accepts=True)) == 20
    assert opened == [0, 1, 2, 3, 4, 5, 6]


def test_a_shard_that_broke_off_is_opened_again(tmp_path: Path, opened: list[int]) -> None:
    """As are those behind it: whether it gives more now is not known."""
    paths = write_shards(tmp_path, [4] * 5, size=100)
    paths[1].write_bytes(paths[1].read_bytes()[:2000])
    whole = [each for each in run(tmp_path, Position(1)) if isinstance(each[0], SampleRef)]
    start, listed = resume(whole, len(whole), {0})
    assert listed is not None
    assert listed.samples == "4,-,4*2"
    opened.clear()
    rest = [ref.id for ref, _ in run(tmp_path, start, listed) if isinstance(ref, SampleRef)]
    assert rest[0] == "0000"
    assert opened == [0, 1, 2, 3, 4]


def test_what_overflows_the_buffer_is_not_counted(tmp_path: Path) -> None:
    """Then the order depends on the sizes of all samples, and they must be read again."""
    write_shards(tmp_path, [5] * 6, size=100_000)
    more: dict[str, Any] = {"random_sampling": True, "concurrent_downloads": 1}
    assert [listed.samples for _, listed in run(tmp_path, Position(1), buffer_mb=1, **more) if listed][-1] == ""
    assert [listed.samples for _, listed in run(tmp_path, Position(1), buffer_mb=9, **more) if listed][-1] == "5*6"


@given(st.lists(st.none() | st.integers(0, 12), max_size=20))
def test_counts_survive_being_text(counts: list[int | None]) -> None:
    noted = ShardCounts()
    for number, count in enumerate(counts):
        noted.note(number, count)
    again = ShardCounts(noted.text)
    assert again.text == noted.text
    assert [again.of_group(number, number + 1) for number in range(len(counts))] == [
        None if count is None else [count] for count in counts
    ]
    assert again.of_group(len(counts), len(counts) + 1) is None
    assert ShardCounts("-*3,7").of_group(3, 4) == [7]


@example([(5, 4), (0, 2), (3, 3)], 1, 3)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8), st.integers(0, 30), st.integers(0, 30))
def test_ranges_cover_what_they_hold(ranges: list[tuple[int, int]], first: int, last: int) -> None:
    numbers = {number for begin, end in ranges for number in range(begin, end + 1)}
    assert DoneRanges(ranges).cover(first, last) == (set(range(first, last + 1)) <= numbers)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 20), st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_a_share_counts_what_it_takes(ranks: int, shards: int, first: int, counts: list[int]) -> None:
    for rank in range(ranks):
        share = ShardShare(rank, ranks, shards)
        taken = [first + place for place, count in enumerate(counts) for number in range(count)
                 if share.takes(first + place, number)]  # fmt: skip
        assert share.count_of_turn(first, counts) == len(taken)
        assert sorted(share.in_turn(first, counts)) == taken
