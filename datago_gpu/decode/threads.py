"""Threads that decode. concurrent.futures ends its own as soon as the main thread ends, while a trainer on another
thread may still iterate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Threads"]


class Threads:
    """A fixed number of daemon threads that call what they are given."""

    def __init__(self, count: int, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name=f"{name}_{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def call(self, work: Callable[[], None], times: int) -> None:
        """Have so many of the threads call `work`, which must not raise."""
        for _ in range(times):
            self._calls.put(work)

    def close(self) -> None:
        """End them, once they have done what they were given. May be called twice."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
            del work  # while it waits for the next, it would keep this batch
