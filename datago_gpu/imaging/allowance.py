"""Limits the memory that decoding threads use at once. Each thread reserves memory before it allocates."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from datago_gpu.heap import give_memory_back
from datago_gpu.units import MiB

__all__ = ["KEPT", "Allowance", "reserve"]

KEPT = 64 * MiB
"""Bytes of freed memory that a thread's heap may keep. Larger reservations are returned to the system after use, which
takes 2 ms of several hundred."""


class Allowance:
    """A memory limit that several threads share. A request above the limit waits until it can run alone.

    threads: number of threads with their own heap. Together their heaps keep at most `capacity` bytes of freed memory.
    """

    def __init__(self, capacity: int, threads: int = 1) -> None:
        self.capacity, self._held = capacity, 0
        self._large = min(KEPT, capacity // threads)
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Waits for room and reserves `size` bytes for the `with` block. First come, first served."""
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


def reserve(memory: Allowance | None, size: int) -> AbstractContextManager[None]:
    """Returns a context manager that reserves `size` bytes. If `memory` is None, nothing is counted."""
    return nullcontext() if memory is None else memory.take(size)
