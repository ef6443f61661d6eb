"""Rows of the program's own as a source of the feeder: which rows a rank gets, in which order, and where it resumes.

Thread, socket and source are real; only the two processes are one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Row, SourceError
from datago_gpu.errors import ConfigError
from datago_gpu.sources.reference import ListingDigest, Position, SampleRef, Skipped
from tests.support.own_rows import linked, own_config, read_from, rows_of

KINDS = ("sequence", "iterable", "function", "ranked", "starting", "ranked and starting")


class Walked:
    """Rows that have no numbers: they can only be walked through, as often as one likes."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def source_of(kind: str, rows: list[Row]) -> Any:
    def function(epoch: int) -> Iterator[Row]:
        return iter(rows[epoch:] + rows[:epoch])

    def ranked(epoch: int, rank: int, world_size: int) -> Iterator[Row]:
        return iter((rows[epoch:] + rows[:epoch])[rank::world_size])

    def starting(epoch: int, start: int) -> Iterator[Row]:
        return islice(function(epoch), start, None)

    def both(epoch: int, rank: int, world_size: int, start: int) -> Iterator[Row]:
        return islice(ranked(epoch, rank, world_size), start, None)

    functions = [rows, Walked(rows), function, ranked, starting, both]
    return dict(zip(KINDS, functions, strict=True))[kind]


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    number=st.integers(1, 90),
    ranks=st.integers(1, 5),
    shuffled=st.booleans(),
    split=st.sampled_from(["shuffled", "listed"]),
    epoch=st.integers(0, 2),
    data=st.data(),
)
def test_ranks_share_all_rows_and_resume_exactly_where_they_stopped(
    kind: str, number: int, ranks: int, shuffled: bool, split: str, epoch: int, data: st.DataObject
) -> None:
    rows = rows_of(number)
    shuffled = shuffled and kind == "sequence"
    seen: list[str] = []

    async def read(rank: int, stop: int) -> None:
        config = own_config(3, rank=rank, world_size=ranks, random_sampling=shuffled, rank_split=split)
        async with linked(source_of(kind, rows), config) as (source, _):
            whole = await read_from(source, Position(epoch))
            assert [sample.index for sample in whole] == list(range(len(whole)))
            rest = await read_from(source, Position(epoch, min(stop, len(whole))))
            assert [(sample.index, sample.id) for sample in rest] == [(s.index, s.id) for s in whole[stop:]]
            some = await read_from(source, Position(epoch), most=stop)
            assert [sample.id for sample in some] == [sample.id for sample in whole[:stop]]
            again = await read_from(source, Position(epoch))  # what was ordered before, and not read, is left out
            assert [sample.id for sample in again] == [sample.id for sample in whole]
        seen.extend(sample.id for sample in whole)
        for sample in whole:
            assert isinstance(sample, SampleRef)
            assert sample.payload == next(row.image for row in rows if row.id == sample.id)

    for rank in range(ranks):
        asyncio.run(read(rank, data.draw(st.integers(1, number))))
    assert sorted(seen) == sorted(row.id for row in rows)


def test_a_function_that_asks_where_to_start_leaves_out_what_is_done_by_itself() -> None:
    starts: list[int] = []

    def rows(epoch: int, *, start: int = 0) -> Iterator[Row]:
        starts.append(start)
        yield from rows_of(100)[start:]

    async def read() -> list[str]:
        async with linked(rows, own_config(rank=1, world_size=2)) as (source, _):
            return [sample.id for sample in await read_from(source, Position(0, 48))]

    assert asyncio.run(read()) == ["r97", "r99"]
    assert starts == [96]


def test_shuffled_epochs_differ() -> None:
    async def order(epoch: int) -> list[str]:
        async with linked(rows_of(40), own_config(random_sampling=True)) as (source, _):
            return [sample.id for sample in await read_from(source, Position(epoch))]

    orders = [asyncio.run(order(epoch)) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def listing_of(rows: list[Row]) -> ListingDigest:
    async def read() -> ListingDigest:
        async with linked(rows, own_config()) as (source, _):
            await read_from(source, most=1)
            assert source.tally.listed
            return source.tally.listed

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], "there are 39 rows, but there were 40"),
        (lambda rows: rows[::-1], "there are 40 rows as before, but some of them have changed"),
    ],
)
def test_a_state_of_other_rows_is_refused(change: Callable[[list[Row]], list[Row]], words: str) -> None:
    listed = listing_of(rows_of(40))
    assert listed == listing_of(rows_of(40))

    async def read() -> None:
        async with linked(change(rows_of(40)), own_config()) as (source, _):
            source.tally.expect(listed, accepts=False)
            await read_from(source, Position(0, 1))

    with pytest.raises(ConfigError, match=words):
        asyncio.run(read())


def test_no_more_rows_are_read_than_are_ordered() -> None:
    taken: list[int] = []

    def endless(epoch: int) -> Iterator[Row]:
        for number in count():
            taken.append(number)
            yield Row(str(number), b"x" * 300_000)

    async def read() -> list[SampleRef | Skipped]:
        async with linked(endless, own_config()) as (source, _):
            return await read_from(source, most=5)

    assert [sample.id for sample in asyncio.run(read())] == ["0", "1", "2", "3", "4"]
    assert len(taken) < 5 + 64 + 1


def test_an_error_of_the_program_comes_after_all_rows_before_it_and_is_known() -> None:
    problem = ValueError("no such record")

    def breaks(epoch: int) -> Iterator[Row]:
        yield from rows_of(3)
        raise problem

    async def read() -> None:
        found: list[SampleRef | Skipped] = []
        async with linked(breaks, own_config()) as (source, thread):
            with pytest.raises(SourceError) as caught:
                await read_from(source, into=found)
        message = "row 3 of the source cannot be read: ValueError: no such record"
        assert ([sample.id for sample in found], str(caught.value)) == (["r0", "r1", "r2"], message)
        assert thread.cause_of(message) is problem
        assert thread.cause_of("another message") is None

    asyncio.run(read())


def raise_(error: BaseException) -> Any:
    raise error


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Broken(list[Row]):
    def __getitem__(self, number: Any) -> Any:
        if number == 5:
            raise KeyError(number)
        return super().__getitem__(number)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Broken(rows_of(9)), "row 5 of the source cannot be read: KeyError: 5"),
        ([*rows_of(2), {"image": b""}], r"row 2 of the source must be a datago_gpu.Row, got a dict; make one: Row\("),
        (lambda epoch: iter(()), "the source has no rows: the program's iterable ended before its first row"),
        (
            lambda epoch: raise_(Wordless()),
            r"the rows of epoch 0 cannot be read: Wordless: \(it has no text: RuntimeErr",
        ),
        (lambda epoch: raise_(SystemExit(3)), "the rows of epoch 0 cannot be read: SystemExit: 3"),
        (lambda epoch: raise_(ValueError("x" * 5000)), r"ValueError: x{2000}\.\.\.$"),
        (lambda epoch: [Row("\ud800", "http://\ud800")], "row 0 of the source: image must be UTF-8 text"),
        (lambda epoch: raise_(ValueError("\ud800")), r"ValueError: \\ud800"),
        (lambda epoch: 3, "^the function .*lambda.* must return an iterable of rows, got int"),
        (lambda epoch: 1 // epoch, "the rows of epoch 0 cannot be read: ZeroDivisionError"),
        (lambda epoch: [Row("a", 3)], "row 0 of the source: image must be encoded bytes, a path or an address, got 3"),
    ],
)
def test_what_ends_a_run_is_said(source: Any, words: str) -> None:
    async def read() -> None:
        async with linked(source, own_config()) as (opened, _):
            await read_from(opened)

    with pytest.raises(SourceError, match=words):
        asyncio.run(read())


def test_a_generator_that_is_left_early_is_closed_before_the_next_walk() -> None:
    events: list[str] = []

    def walked(epoch: int) -> Iterator[Row]:
        events.append(f"begin {epoch}")
        try:
            yield from rows_of(200)
        finally:
            events.append(f"end {epoch}")

    async def read() -> None:
        async with linked(walked, own_config()) as (source, _):
            await read_from(source, Position(0), most=1)
            await read_from(source, Position(1), most=1)

    asyncio.run(read())
    assert events == ["begin 0", "end 0", "begin 1", "end 1"]


def test_parts_attributes_and_flaws_come_over(tmp_path: Path) -> None:
    row = Row(
        "a",
        tmp_path / "a.jpg",
        attributes={"caption": "x"},
        label=3,
        masks={"m": b"mask", "n": str(tmp_path / "n.png")},
        latents={"l": memoryview(b"latent")},
        additional_images={"i": "https://example.org/i.jpg?sign=1"},
    )
    odd = Row("b", b"x", attributes={"caption": object()})

    async def read() -> list[SampleRef | Skipped]:
        async with linked([row, odd], own_config()) as (source, _):
            return await read_from(source)

    first, second = asyncio.run(read())
    assert isinstance(first, SampleRef)
    assert isinstance(second, SampleRef)
    assert first.path == str(tmp_path / "a.jpg")
    assert first.info.attributes == b'{"label":3,"caption":"x"}'
    parts = [(part.kind, part.name, part.path, part.url, part.payload) for part in first.parts]
    assert parts == [
        ("mask", "m", "", "", b"mask"),
        ("mask", "n", str(tmp_path / "n.png"), "", None),
        ("image", "i", "", "https://example.org/i.jpg?sign=1", None),
        ("latent", "l", "", "", b"latent"),
    ]
    assert (second.info.attributes, second.flaws) == (
        b"{}",
        {"bad-attributes": "JSON has no value for the type object"},
    )
    assert second.where == "row 1"


def test_a_payload_above_the_limit_is_skipped_without_being_sent() -> None:
    rows = [Row("a", b"x" * 2**21), Row("b", b"x", masks={"m": b"x" * 2**21}), Row("c", b"x")]

    async def read() -> list[SampleRef | Skipped]:
        async with linked(rows, own_config()) as (source, _):
            return await read_from(source)

    first, second, third = asyncio.run(read())
    assert isinstance(first, Skipped)
    assert isinstance(second, Skipped)
    assert (first.reason, first.detail) == ("too-large", "2097152 bytes, above http_config.max_payload_mb")
    assert second.detail == "mask 'm': 2097152 bytes, above http_config.max_payload_mb"
    assert third.id == "c"
