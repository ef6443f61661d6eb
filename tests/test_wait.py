"""Waits are summed up, the one that is going on included."""

from __future__ import annotations

import time

from datago_gpu.wait import Wait


def test_a_wait_that_is_going_on_counts() -> None:
    wait = Wait("list")
    assert (wait.seconds, wait.began) == (0.0, 0.0)
    wait.begin()
    assert 0.0 < wait.seconds <= wait.seconds
    assert wait.began <= time.perf_counter()
    wait.end()
    assert wait.seconds == wait.seconds > 0.0


def test_an_end_without_a_begin_changes_nothing() -> None:
    wait = Wait("list")
    wait.end()
    assert wait.seconds == 0.0
