"""The bounded queue between the decoder's thread and the trainer: what is put comes out, and every wait ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest

from datago_gpu.loader.handoff import Ended, Handoff

T = TypeVar("T")
WAIT_S = 10


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], T]], Future[T]]]:
    """Calls something on another thread."""
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit  # type: ignore[misc]


Beside = Callable[..., "Future[object]"]


def test_items_come_out_in_order_and_then_the_end() -> None:
    queue: Handoff[int] = Handoff(3)
    assert [queue.put(number) for number in range(3)] == [True] * 3
    queue.end()
    assert [queue.get() for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(Ended):
            queue.get()


def test_an_error_is_raised_once_behind_what_came_before_it() -> None:
    queue: Handoff[int] = Handoff(3)
    queue.put(1)
    queue.end(OSError("broken"))
    assert queue.get() == 1
    with pytest.raises(OSError, match="broken"):
        queue.get()
    with pytest.raises(Ended):
        queue.get()


def test_put_waits_for_room(beside: Beside) -> None:
    queue: Handoff[int] = Handoff(1)
    queue.put(1)
    second = beside(queue.put, 2)
    assert not second.done()
    assert len(queue) == 1
    assert queue.get() == 1
    assert second.result(WAIT_S) is True
    assert queue.get() == 2
    assert queue.put_wait.seconds > 0


def test_get_waits_for_an_item(beside: Beside) -> None:
    queue: Handoff[int] = Handoff(1)
    first = beside(queue.get)
    assert not first.done()
    queue.put(7)
    assert first.result(WAIT_S) == 7
    assert queue.get_wait.seconds > 0


def test_the_end_wakes_who_waits_for_an_item(beside: Beside) -> None:
    queue: Handoff[int] = Handoff(1)
    waiting = [beside(queue.get) for _ in range(3)]
    queue.end()
    for each in waiting:
        with pytest.raises(Ended):
            each.result(WAIT_S)


def test_closing_wakes_who_waits_for_room_and_drops_what_is_there(beside: Beside) -> None:
    queue: Handoff[int] = Handoff(1)
    queue.put(1)
    waiting = [beside(queue.put, number) for number in range(3)]
    queue.close()
    assert [each.result(WAIT_S) for each in waiting] == [False] * 3
    assert len(queue) == 0
    assert queue.put(2) is False
    with pytest.raises(Ended):
        queue.get()


def test_what_fails_because_of_closing_is_not_reported_after_it() -> None:
    """A decoder that is stopped half-way may well fail: nobody asked."""
    queue: Handoff[int] = Handoff(1)
    queue.close()
    queue.end(OSError("stopped half-way"))
    with pytest.raises(Ended):
        queue.get()


def test_nothing_is_lost_or_doubled_between_threads(beside: Beside) -> None:
    queue: Handoff[int] = Handoff(3)
    got: list[int] = []

    def take() -> None:
        while True:
            try:
                got.append(queue.get())
            except Ended:
                return

    taker = beside(take)
    begun = threading.Barrier(2)

    def put(numbers: range) -> None:
        begun.wait(WAIT_S)
        for number in numbers:
            queue.put(number)

    puts = [beside(put, range(start, 2000, 2)) for start in range(2)]
    for each in puts:
        each.result(WAIT_S)
    queue.end()
    taker.result(WAIT_S)
    assert sorted(got) == list(range(2000))
    assert [number for number in got if number % 2] == list(range(1, 2000, 2))


def test_what_has_a_weight_waits_for_room_or_for_nothing_else_to_be_there(beside: Beside) -> None:
    queue: Handoff[str] = Handoff(9, capacity=10)
    assert queue.wait(50) is True, "nothing else is there"
    assert queue.put("heavy", 50)
    assert not queue.fits(1)
    light = beside(queue.wait, 4)
    assert not light.done()
    assert queue.get() == "heavy"
    assert light.result(WAIT_S) is True
    assert queue.put("light", 4)
    assert queue.fits(6)
    assert not queue.fits(7)
    assert queue.wait(6) is True
    waiting = beside(queue.wait, 7)
    assert not waiting.done()
    queue.close()
    assert waiting.result(WAIT_S) is False


class BeforeWaiting(threading.Condition):
    """Calls a signal handler in the last moment before a thread waits, as Python may."""

    def __init__(self, handler: Callable[[], None]) -> None:
        super().__init__()
        self.handler = handler

    def wait(self, timeout: float | None = None) -> bool:
        self.handler()
        return super().wait(timeout)


class BeforeTaking(deque[tuple[int, int]]):
    """Calls a signal handler when a thread has seen an item and has not taken it yet."""

    handler: Callable[[], None]

    def __bool__(self) -> bool:
        there = len(self) > 0
        if there:
            self.handler()
        return there


def test_a_signal_handler_that_closes_the_queue_ends_the_get_that_it_interrupts(beside: Beside) -> None:
    queue: Handoff[int] = Handoff(3)
    queue._changed = BeforeWaiting(queue.close)
    with pytest.raises(Ended):
        beside(queue.get).result(WAIT_S)


def test_a_signal_handler_may_close_the_queue_before_an_item_is_taken(beside: Beside) -> None:
    queue: Handoff[int] = Handoff(3)
    queue._items = items = BeforeTaking([(1, 0)])
    items.handler = queue.close
    with pytest.raises(Ended):
        beside(queue.get).result(WAIT_S)


def test_closing_within_no_get_starts_no_thread() -> None:
    queue: Handoff[int] = Handoff(3)
    before = threading.active_count()
    queue.put(1)
    queue.get()
    queue.close()
    assert threading.active_count() == before
