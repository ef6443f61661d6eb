"""Whether a server is down, from what several processes say: as one that sees everything would say."""

from __future__ import annotations

import asyncio
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.feeder.download.health import UndecidedFailures
from datago_gpu.sources.http.failure import DOWN_AFTER, HttpFailure, means_down

HOST = "payloads.example"


def given_up(row: list[tuple[float, int]], status: int = 503) -> HttpFailure:
    failure = HttpFailure(f"http-{status}", status=status)
    failure.row = row
    return failure


def verdicts(futures: list[asyncio.Future[bytes]]) -> list[bool | None]:
    """Of each failure whether its server is down; None for one that waits."""
    found: list[bool | None] = []
    for future in futures:
        error = future.exception() if future.done() else None
        found.append(error.down if isinstance(error, HttpFailure) else None)
    return found


def with_futures(count: int) -> tuple[asyncio.AbstractEventLoop, list[asyncio.Future[bytes]]]:
    loop = asyncio.new_event_loop()
    return loop, [loop.create_future() for _ in range(count)]


def test_many_failures_of_several_processes_mean_that_the_server_is_down() -> None:
    """None of them has seen enough of it alone."""
    loop, futures = with_futures(2)
    undecided = UndecidedFailures()
    for process, future in enumerate(futures):
        row = [(1.0 + number, process) for number in range(DOWN_AFTER // 2)]
        undecided.note_failure(HOST, 10.0, process, future, given_up(row))
        assert bool(undecided) == (process == 0)
    assert verdicts(futures) == [True, True]
    loop.close()


def test_an_answer_clears_the_server_but_not_another_one() -> None:
    loop, futures = with_futures(2)
    undecided = UndecidedFailures()
    undecided.note_failure(HOST, 1.0, 0, futures[0], given_up([(1.0, 1)]))
    undecided.note_failure("other.example", 1.0, 0, futures[1], given_up([(1.0, 2)]))
    undecided.note_answer(HOST, 2.0)
    assert verdicts(futures) == [False, None]
    undecided.settle()
    assert verdicts(futures) == [False, False]
    assert not undecided
    loop.close()


def test_a_refusal_of_one_payload_is_an_answer() -> None:
    loop, futures = with_futures(2)
    undecided = UndecidedFailures()
    undecided.note_failure(HOST, 1.0, 0, futures[0], given_up([(1.0, 1)]))
    undecided.note_failure(HOST, 2.0, 1, futures[1], given_up([], status=404))
    assert verdicts(futures) == [False, False]
    loop.close()


def test_a_failure_that_nobody_waits_for_any_more_does_no_harm() -> None:
    loop, (future,) = with_futures(1)
    undecided = UndecidedFailures()
    future.cancel()
    undecided.note_failure(HOST, 1.0, 0, future, given_up([(1.0, 1)]))
    undecided.settle()
    assert not undecided
    loop.close()


# What happens at each moment: which process (or -1: an answer to the first of them), and of which URL a try fails.
EVENTS = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), max_size=120)


@given(EVENTS, st.integers(1, 6))
def test_the_verdict_is_that_of_one_who_sees_everything(events: list[tuple[int, int]], tries: int) -> None:
    """Each process gives a URL up after so many tries. Whoever has to wait for a verdict gets the right one."""
    loop, futures = with_futures(len(events))
    undecided = UndecidedFailures()
    rows: dict[int, deque[tuple[float, int]]] = {}
    told: dict[int, list[tuple[float, int]]] = {}
    """What each process has said of its row by now."""
    failed: dict[tuple[int, int], int] = {}
    answered_at = 0.0
    for moment, (process, url) in enumerate(events):
        now, future = 1.0 + moment, futures[moment]
        if process < 0:
            undecided.note_answer(HOST, now)
            answered_at = now
            rows.pop(0, None)  # the others do not hear of it
            assert not undecided
            continue
        row = rows.setdefault(process, deque(maxlen=DOWN_AFTER))
        row.append((now, url))
        failed[process, url] = failed.get((process, url), 0) + 1
        if failed[process, url] % tries:
            continue
        told[process] = list(row)
        undecided.note_failure(HOST, now, process, future, given_up(list(row)))
        seen = [each for said in told.values() for each in said if each[0] > answered_at]
        assert verdicts([future]) == [True if means_down(seen) else None]
        assert bool(undecided) == (not means_down(seen))
    undecided.settle()
    assert not undecided
    loop.close()
