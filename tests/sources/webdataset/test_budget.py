"""Between threads and the loop: what several channels hold together is bounded, and nobody waits for ever.

A wake-up is a return from `Condition.wait`: a thread that is woken in vain has two for one lot.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import cycle
from random import Random
from threading import Condition

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.sources.webdataset import budget as pipe
from datago_gpu.sources.webdataset.budget import Budget, Channel, GivenUp, Pipe

WAIT_S = 10

Order = Callable[[list[int], Random], Iterator[int]]
"""Of the channels that have something left (a list that shrinks meanwhile), which one is taken from next."""


def one_after_the_other(left: list[int], _: Random) -> Iterator[int]:
    """As shards without `interleave`."""
    while left:
        yield left[0]


def last_first(left: list[int], _: Random) -> Iterator[int]:
    """Against the precedence."""
    while left:
        yield left[-1]


def in_turns(left: list[int], _: Random) -> Iterator[int]:
    """As shards with `interleave`."""
    while left:
        yield from list(left)


def some_in_turns(left: list[int], random: Random) -> Iterator[int]:
    """As `interleave` with fewer than are open."""
    count = random.randrange(1, 4)
    while left:
        group = left[:count]
        while group:
            yield from group
            group = [number for number in group if number in left]


def any_one(left: list[int], random: Random) -> Iterator[int]:
    while left:
        yield random.choice(left)


ORDERS: list[Order] = [one_after_the_other, last_first, in_turns, some_in_turns, any_one]


@contextmanager
def counted_wake_ups() -> Iterator[list[str]]:
    """The names of the threads that have been woken by what `pipe` makes meanwhile."""
    woken: list[str] = []

    class Counting(Condition):
        def wait(self, timeout: float | None = None) -> bool:
            notified = super().wait(timeout)
            woken.append(threading.current_thread().name)
            return notified

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "Condition", Counting)
        yield woken


def put(channel: Channel[int], items: list[int], size: int) -> None:
    channel.reserve(size)
    channel.put(items, size)


async def waiting(budget: Budget, count: int) -> None:
    """Until so many threads wait for room."""
    while len(budget.waiting) < count:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


def start(channel: Channel[int], sizes: list[int]) -> threading.Thread:
    """A thread that puts a lot of each size, and ends."""

    def fill() -> None:
        try:
            for size in sizes:
                if not channel.has_room(size):
                    channel.reserve(size)
                channel.put([size], size)
        except GivenUp:
            pass
        channel.end()

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    return thread


@given(
    channels=st.lists(st.lists(st.integers(1, 15), max_size=8), min_size=1, max_size=9),
    capacity=st.integers(1, 20),
    order=st.sampled_from(ORDERS),
    given_up=st.dictionaries(st.integers(0, 8), st.integers(0, 8), max_size=3),
    idle=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_all_lots_come_whatever_their_sizes_and_whoever_is_asked(
    channels: list[list[int]], capacity: int, order: Order, given_up: dict[int, int], idle: int, seed: int
) -> None:
    """Each channel has a thread of its own. given_up: after how many lots some of them are. idle: turns of the loop
    between two lots, so that threads get further or less far."""

    async def main(woken: list[str]) -> None:
        budget, loop = Budget(capacity), asyncio.get_running_loop()
        opened = [Channel[int](loop, budget, number) for number in range(len(channels))]
        threads = [start(*pair) for pair in zip(opened, channels, strict=True)]
        found: list[list[int]] = [[] for _ in channels]
        left = list(range(len(channels)))
        for number in order(left, Random(seed)):
            if given_up.get(number) == len(found[number]):
                opened[number].give_up()
                left.remove(number)
                continue
            lot = await opened[number].take()
            if lot is None:
                left.remove(number)
                continue
            found[number] += lot
            assert budget.held <= capacity + 15  # one lot more, of the one that is asked for
            for _ in range(idle):
                await asyncio.sleep(0)
        for thread in threads:
            await asyncio.to_thread(thread.join, WAIT_S)
            assert not thread.is_alive()
        assert found == [sizes[: given_up.get(number)] for number, sizes in enumerate(channels)]
        assert (budget.held, budget.waiting) == (0, {})
        assert len(woken) <= sum(map(len, channels))  # nobody in vain

    with counted_wake_ups() as woken:
        asyncio.run(asyncio.wait_for(main(woken), WAIT_S))


@given(
    sizes=st.lists(st.lists(st.integers(1, 15), min_size=16, max_size=16), min_size=1, max_size=9),
    capacity=st.integers(1, 20),
)
def test_nothing_wakes_while_nothing_moves(sizes: list[list[int]], capacity: int) -> None:
    """All is full, and nobody takes anything."""

    async def main(woken: list[str]) -> None:
        budget, loop = Budget(capacity), asyncio.get_running_loop()
        opened = [Channel[int](loop, budget, number) for number in range(len(sizes))]
        for pair in zip(opened, sizes, strict=True):
            start(*pair)
        for channel in [None, *opened]:  # at first, and whenever one lot has been taken
            if channel:
                await channel.take()
            await waiting(budget, len(opened))
            before = list(woken)
            for _ in range(20):
                await asyncio.sleep(0)
            assert woken == before
        for channel in opened:
            channel.give_up()

    with counted_wake_ups() as woken:
        asyncio.run(asyncio.wait_for(main(woken), WAIT_S))


def test_what_is_freed_goes_to_the_one_whose_turn_is_next() -> None:
    async def main() -> None:
        budget, loop = Budget(10), asyncio.get_running_loop()
        first, second, third = (Channel[int](loop, budget, number) for number in range(3))
        for _ in range(2):
            put(first, [4], 4)
        put(third, [2], 2)
        start(third, [2])
        await waiting(budget, 1)
        start(second, [4])
        await waiting(budget, 2)
        assert budget.held == 10
        assert await first.take() == [4]
        assert (list(budget.waiting), budget.held) == ([2], 10)
        assert await first.take() == [4]
        assert (list(budget.waiting), budget.held) == ([], 8)

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_a_lower_number_that_waits_for_much_is_not_passed_by_others() -> None:
    async def main() -> None:
        budget, loop = Budget(10), asyncio.get_running_loop()
        first, second = (Channel[int](loop, budget, number) for number in range(2))
        put(first, [1], 1)
        put(second, [4], 4)
        start(first, [10])
        await waiting(budget, 1)
        start(second, [2])
        await waiting(budget, 2)
        assert budget.held == 5  # the 2 would fit
        assert await first.take() == [1]
        assert (sorted(budget.waiting), budget.held) == ([0, 1], 4)
        assert await first.take() == [10]
        assert (list(budget.waiting), budget.held) == ([], 6)


@pytest.mark.parametrize("awaited", [True, False])
def test_room_beyond_the_budget_is_for_the_one_that_is_waited_for(awaited: bool) -> None:
    """Each used to have a lot of any size, and a further one that waited."""

    async def main() -> None:
        budget, loop = Budget(10), asyncio.get_running_loop()
        channels = [Channel[int](loop, budget, number) for number in range(5)]
        for channel in channels:
            start(channel, [8, 8])
        await waiting(budget, 4)
        assert budget.held == 8
        if awaited:
            last = asyncio.create_task(channels[4].take())
            assert await last == [8]
            assert budget.held == 8
        for channel in channels:
            channel.give_up()

    asyncio.run(asyncio.wait_for(main(), WAIT_S))

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_room_that_is_not_needed_goes_to_others() -> None:
    async def main() -> None:
        budget, loop = Budget(10), asyncio.get_running_loop()
        first, second = (Channel[int](loop, budget, number) for number in range(2))
        assert first.has_room(10)
        start(second, [8])
        await waiting(budget, 1)
        first.give_back(7)
        assert (budget.waiting, budget.held) == ({1: second}, 3)
        first.give_back(1)
        assert (budget.waiting, budget.held) == ({}, 10)
        assert await second.take() == [8]
        first.end()
        assert budget.held == 0

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_giving_up_wakes_the_thread_and_frees_what_it_held() -> None:
    async def main() -> None:
        budget = Budget(1)
        channel: Channel[int] = Channel(asyncio.get_running_loop(), budget, 0)
        given_up = threading.Event()

        def fill() -> None:
            put(channel, [1], 1)
            with pytest.raises(GivenUp):
                channel.reserve(1)
            with pytest.raises(GivenUp):
                channel.has_room(1)
            with pytest.raises(GivenUp):
                channel.put([3], 1)
            given_up.set()

        thread = threading.Thread(target=fill)
        thread.start()
        await waiting(budget, 1)
        channel.give_up()
        assert await asyncio.to_thread(given_up.wait, WAIT_S)
        thread.join(WAIT_S)
        assert budget.held == 0

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_a_read_that_waits_for_more_says_so_before() -> None:
    """Though a few bytes are there, with which nothing can be done: what is complete would be held back."""

    async def main() -> None:
        said = threading.Event()
        source = Pipe(asyncio.get_running_loop(), 4096, said.set)
        await source.put(bytes(100))
        read = asyncio.create_task(asyncio.to_thread(source.read, 1000))
        assert await asyncio.to_thread(said.wait, WAIT_S)
        await source.put(bytes(900))
        source.end()
        assert await read

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


@given(
    blocks=st.lists(st.integers(0, 3000), max_size=20),
    reads=st.lists(st.integers(1, 4000), min_size=1, max_size=8),
    capacity=st.integers(1, 5000),
    broken=st.booleans(),
)
def test_bytes_come_whole_whatever_the_pieces(blocks: list[int], reads: list[int], capacity: int, broken: bool) -> None:
    """reads: sizes of those, again and again. broken: the stream ends with an error behind the bytes."""
    pieces = [bytes([number]) * size for number, size in enumerate(blocks)]

    async def main() -> None:
        source = Pipe(asyncio.get_running_loop(), capacity, lambda: None)

        def read_all() -> bytes:
            found = b""
            with pytest.raises(ConnectionError) if broken else nullcontext():
                for size in cycle(reads):
                    block = source.read(size)
                    if not block:
                        break
                    assert len(block) <= size
                    found += block
            return found

        reading = asyncio.create_task(asyncio.to_thread(read_all))
        try:
            for piece in pieces:
                await source.put(piece)
                assert source._size <= capacity + 3000
            source.end(ConnectionError() if broken else None)
            assert await reading == b"".join(pieces)
        finally:
            source.give_up()  # else a thread would wait for ever

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


@given(st.integers(0, 600), st.integers(1, 2000))
def test_giving_a_pipe_up_ends_a_read_that_waits(there: int, size: int) -> None:
    async def main() -> None:
        waits = threading.Event()
        source = Pipe(asyncio.get_running_loop(), 4096, waits.set)
        await source.put(bytes(there))
        if there >= min(size, 512):
            source.give_up()
        else:
            asyncio.get_running_loop().run_in_executor(None, lambda: (waits.wait(WAIT_S), source.give_up()))
        with pytest.raises(GivenUp):
            await asyncio.to_thread(source.read, size)

    asyncio.run(asyncio.wait_for(main(), WAIT_S))
