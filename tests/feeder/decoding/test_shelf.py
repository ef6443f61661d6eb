"""Parts of the shared memory go back with the last array over them, and not before."""

from __future__ import annotations

import gc
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datago_gpu.feeder.decoding.shelf import Shelf

BEGIN, SIZE = 4096, 1024


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(mmap.mmap(-1, BEGIN + SIZE), BEGIN, SIZE)


def taken(shelf: Shelf, size: int = SIZE) -> np.ndarray:
    part = shelf.take(size)
    assert part
    return part.array()


def test_parts_do_not_overlap_and_are_writable(shelf: Shelf) -> None:
    first, second = taken(shelf, 100), taken(shelf, 200)
    first[:], second[:] = 1, 2
    assert (len(first), len(second)) == (100, 200)
    assert (first.sum(), second.sum()) == (100, 400)
    assert shelf.memory[:BEGIN] == bytes(BEGIN)


@pytest.mark.parametrize("size", [0, SIZE + 1])
def test_what_cannot_lie_there_gets_no_part(shelf: Shelf, size: int) -> None:
    assert shelf.take(size) is None


def test_a_part_that_is_given_back_is_taken_again(shelf: Shelf) -> None:
    part = shelf.take(SIZE)
    assert part
    assert shelf.take(1) is None
    part.give_back()
    assert shelf.take(SIZE)


def cycle(array: np.ndarray) -> list[Any]:
    made: list[Any] = [array.reshape(2, -1)]
    made.append(made)
    return made


VIEWS: dict[str, Callable[[np.ndarray], object]] = {
    "rows": lambda array: array.reshape(4, -1)[2][3:5],
    "dtype": lambda array: array.view(np.float32)[::2],
    "dlpack": lambda array: np.from_dlpack(array.reshape(16, -1)),
    "memoryview": lambda array: memoryview(array)[3:],
    "cycle": cycle,
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_part_lives_as_long_as_anything_made_of_its_array(shelf: Shelf, view: str) -> None:
    kept = VIEWS[view](taken(shelf))
    gc.collect()
    assert shelf.take(1) is None
    del kept
    gc.collect()
    assert shelf.take(SIZE)


def test_an_array_outlives_the_shelf() -> None:
    array = taken(Shelf(mmap.mmap(-1, BEGIN + SIZE), BEGIN, SIZE))
    gc.collect()
    array[:] = 7
    assert array.sum() == 7 * SIZE


def test_a_fork_keeps_the_parts_that_were_out(shelf: Shelf) -> None:
    """It reads the same memory. What is taken afterwards does not concern it."""
    array = taken(shelf, 512)
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    try:
        del array
        other = taken(shelf, 512)
        del other
        assert taken(shelf, 512) is not None
        assert shelf.take(SIZE) is None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert shelf.take(SIZE)
