"""The memory that decoding may take at once: counted before it is taken, on any number of threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from datago_gpu.heap import give_memory_back
from datago_gpu.units import MiB

__all__ = ["KEPT", "Allowance", "taken"]

KEPT = 64 * MiB
"""Bytes that the heap of a thread keeps when they are freed. From there on, what was taken goes back to the system at
once, which costs 2 ms of several hundred."""


class Allowance:
    """Bytes that several threads share. What is larger than all of them is had alone.

    threads: how many have a heap of their own. What these keep when it is given back is no more than the capacity.
    """

    def __init__(self, capacity: int, threads: int = 1) -> None:
        self.capacity, self._held = capacity, 0
        self._large = min(KEPT, capacity // threads)
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Hold so many bytes for a block, once there is room for them: first come, first served."""
        with self._changed:
            if self._waiting or not self._fits(size):
                self._wait(size)
            self._held += size
        try:
            yield
        finally:
            if size >= self._large:
                give_memory_back()
            with self._changed:
                self._held -= size
                if self._waiting:
                    self._changed.notify_all()

    def _wait(self, size: int) -> None:
        turn = object()
        self._waiting.append(turn)
        self._changed.wait_for(lambda: self._waiting[0] is turn and self._fits(size))
        self._waiting.popleft()
        self._changed.notify_all()  # there may be room for the next one, too

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self.capacity


def taken(memory: Allowance | None, size: int) -> AbstractContextManager[None]:
    """A block that holds so many bytes; None counts nothing."""
    return nullcontext() if memory is None else memory.take(size)
