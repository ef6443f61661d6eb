"""The shuffle buffer of a listing: what it draws is fixed by the seed, and what it holds is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.sources.reference import SampleRef, Skipped, sample_bytes
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.shuffle import SplitMix64, shuffle_stream


def drawn(sizes: list[int], capacity: int, most_bytes: int, *, draws_newest: bool = False) -> list[int]:
    """The numbers of items in the order in which they come out. Checks the bounds of the buffer meanwhile."""
    taken = 0

    async def items() -> AsyncGenerator[int, None]:
        nonlocal taken
        for number in range(len(sizes)):
            taken += 1
            yield number

    async def main() -> list[int]:
        found: list[int] = []
        mixed = shuffle_stream(
            items(),
            capacity,
            SplitMix64(1),
            most_bytes=most_bytes,
            size_of=lambda number: sizes[number],
            draws_newest=draws_newest,
        )
        async with aclosing(mixed) as numbers:
            async for number in numbers:
                found.append(number)
                held = set(range(taken)) - set(found)
                assert len(held) <= capacity
                newest, largest = sizes[taken - 1], max(sizes[:taken])
                assert sum(sizes[each] for each in held) <= max(most_bytes, largest) + newest
        return found

    return asyncio.run(main())


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 20), st.integers(0, 200), st.booleans())
def test_all_come_once_within_the_bounds(sizes: list[int], capacity: int, most_bytes: int, draws_newest: bool) -> None:
    assert sorted(drawn(sizes, capacity, most_bytes, draws_newest=draws_newest)) == list(range(len(sizes)))


def test_orders_never_change() -> None:
    """A state of an older version must find the order that it was made with: of a Dataroom, and of shards."""
    assert drawn([1] * 12, 4, 100) == [1, 2, 5, 3, 6, 0, 7, 8, 10, 4, 11, 9]
    assert drawn([1] * 12, 4, 100, draws_newest=True) == [1, 3, 2, 7, 6, 0, 10, 5, 11, 4, 8, 9]
    assert drawn([1] * 12, 8, 4) == drawn([1] * 12, 8, 4, draws_newest=True) == [1, 3, 2, 7, 6, 0, 10, 5, 11, 4, 8, 9]


def test_the_order_does_not_depend_on_a_bound_that_is_not_reached() -> None:
    assert drawn([1] * 12, 4, 4 + 1) == drawn([1] * 12, 4, 10**9)
    assert drawn([1] * 12, 4, 3) != drawn([1] * 12, 4, 10**9)


def test_attributes_tags_and_numbers_count() -> None:
    few = SampleRef(0, SampleInfo("a"))
    many = SampleRef(0, SampleInfo("a", attributes=b"x" * 5000, tags=["y" * 100] * 10, embedding=bytes(4000)))
    assert sample_bytes(many) - sample_bytes(few) >= 5000 - 2 + 1000 + 4000
    assert sample_bytes(Skipped(0, "a", "", "empty")) > 0
