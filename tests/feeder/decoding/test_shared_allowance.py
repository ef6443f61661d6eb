"""The memory limit of several processes: never passed together, and nobody waits for ever."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator

import pytest

from datago_gpu.feeder import arena
from datago_gpu.feeder.decoding.shared_allowance import SharedAllowance

CAPACITY = 1000
SIZES = [1, 300, 400, 600, 999, 1000, 1001, 5000]


@pytest.fixture
def allowance() -> Iterator[tuple[SharedAllowance, mmap.mmap]]:
    file = arena.create(8192)
    memory = mmap.mmap(file, 8192)
    yield SharedAllowance(CAPACITY, 4, file, memory), memory
    os.close(file)


def use(allowance: SharedAllowance, memory: mmap.mmap, number: int) -> None:
    """Takes sizes in an order of its own. While it has one, its entry in the memory says so."""
    at = 4096 + 8 * number
    for turn in range(60):
        size = SIZES[(turn * (2 * number + 1) + number) % len(SIZES)]
        with allowance.take(size):
            memory[at : at + 8] = size.to_bytes(8, "little")
            held = [int.from_bytes(memory[each : each + 8], "little") for each in range(4096, 4096 + 32, 8)]
            assert sum(held) <= CAPACITY or held.count(0) == 3, held
            memory[at : at + 8] = bytes(8)


def test_processes_together_keep_to_the_limit(allowance: tuple[SharedAllowance, mmap.mmap]) -> None:
    """More than the limit runs alone."""
    children = []
    for number in range(4):
        children.append(os.fork())
        if not children[-1]:
            status = 1
            try:
                use(*allowance, number)
                status = 0
            finally:
                os._exit(status)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    with allowance[0].take(5000):
        pass


def test_a_process_that_dies_while_it_waits_stops_nobody(allowance: tuple[SharedAllowance, mmap.mmap]) -> None:
    with allowance[0].take(CAPACITY):
        child = os.fork()
        if not child:
            with allowance[0].take(1):
                os._exit(1)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with allowance[0].take(CAPACITY):
        pass
