"""Between threads and the loop: what several outlets hold together is bounded, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.sources.pipe import Budget, GivenUp, Outlet

WAIT_S = 10


async def waiting(budget: Budget, count: int) -> None:
    """Until so many threads wait for room."""
    while len(budget.waiting) < count:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


async def taken(outlet: Outlet[str]) -> list[str]:
    """The next lot."""
    async with aclosing(outlet.lots()) as lots:
        return await anext(lots)


@given(st.lists(st.lists(st.integers(1, 9), max_size=8), min_size=1, max_size=5), st.integers(1, 20))
def test_lots_come_in_turn_within_the_budget_whatever_their_sizes(outlets: list[list[int]], capacity: int) -> None:
    """Each has a thread of its own; they are emptied one after the other."""

    async def main() -> None:
        budget, most = Budget(capacity), 0
        loop = asyncio.get_running_loop()
        opened: list[Outlet[int]] = [Outlet(loop, budget, number) for number in range(len(outlets))]

        def fill(outlet: Outlet[int], sizes: list[int]) -> None:
            for size in sizes:
                outlet.put([size], size)
            outlet.end()

        threads = [threading.Thread(target=fill, args=pair) for pair in zip(opened, outlets, strict=True)]
        for thread in threads:
            thread.start()
        for outlet, sizes in zip(opened, outlets, strict=True):
            found = []
            async for lot in outlet.lots():
                found += lot
                most = max(most, budget.held)
            assert found == sizes
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        assert budget.held == 0
        assert not budget.waiting
        # Beyond it, one lot of each.
        assert most <= capacity + 9 * len(outlets)

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_what_is_freed_goes_to_the_one_whose_turn_is_next() -> None:
    async def main() -> None:
        budget, loop = Budget(10), asyncio.get_running_loop()
        first, second, third = (Outlet[str](loop, budget, number) for number in range(3))
        went_on: list[str] = []

        def put_two(name: str, outlet: Outlet[str]) -> None:
            outlet.put([name], 5)
            outlet.put([name], 5)
            went_on.append(name)

        first.put(["held"], 10)
        threads = []
        for name, outlet in (("third", third), ("second", second)):
            threads.append(threading.Thread(target=put_two, args=(name, outlet)))
            threads[-1].start()
            await waiting(budget, len(threads))
        # 10 + 5 + 5 are held, so there is room for one more once all of the first has gone and one of the others.
        assert await taken(first) == ["held"]
        assert await taken(second) == ["second"]
        await asyncio.to_thread(threads[1].join, WAIT_S)
        assert went_on[0] == "second"
        assert await taken(third) == ["third"]
        await asyncio.to_thread(threads[0].join, WAIT_S)
        assert went_on == ["second", "third"]

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_giving_up_wakes_the_thread_and_frees_what_it_held() -> None:
    async def main() -> None:
        budget = Budget(1)
        outlet: Outlet[int] = Outlet(asyncio.get_running_loop(), budget, 0)
        given_up = threading.Event()

        def fill() -> None:
            outlet.put([1], 1)
            with pytest.raises(GivenUp):
                outlet.put([2], 1)
            given_up.set()

        thread = threading.Thread(target=fill)
        thread.start()
        await waiting(budget, 1)
        outlet.give_up()
        assert await asyncio.to_thread(given_up.wait, WAIT_S)
        thread.join(WAIT_S)
        assert budget.held == 0

    asyncio.run(asyncio.wait_for(main(), WAIT_S))
