"""A bounded queue between two threads, which either side can end."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Ended", "Handoff"]

T = TypeVar("T")


class Ended(Exception):
    """There is nothing more to get, and there will not be."""


class Handoff(Generic[T]):
    """Holds at most `size` items, and of those that have a weight, about as many as weigh `capacity`.

    What was put before the end can still be got after it.
    """

    def __init__(self, size: int, capacity: int = 0) -> None:
        self._size, self._capacity, self._held = size, capacity, 0
        self._items: deque[tuple[T, int]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None
        self.waited_put_s = self.waited_get_s = 0.0

    def wait(self, weight: int) -> bool:
        """Wait until there is room for something of this weight, or nothing else. False if the other side has closed.

        weight: of what will be put, and whatever else exists that has not been put yet.
        """
        with self._changed:
            clock = time.perf_counter()
            self._changed.wait_for(lambda: self._ended or not self._items or self._has(weight))
            self.waited_put_s += time.perf_counter() - clock
            return not self._ended

    def fits(self, weight: int) -> bool:
        """Whether there is room for so much without waiting."""
        with self._changed:
            return self._has(weight)

    def put(self, item: T, weight: int = 0) -> bool:
        """Wait for room. False if the other side has closed."""
        with self._changed:
            clock = time.perf_counter()
            while len(self._items) >= self._size and not self._ended:
                self._changed.wait()
            self.waited_put_s += time.perf_counter() - clock
            if self._ended:
                return False
            self._items.append((item, weight))
            self._held += weight
            self._changed.notify_all()
            return True

    def get(self) -> T:
        """Wait for an item. Raises Ended after the last one, or the error that `end` was given."""
        with self._changed:
            clock = time.perf_counter()
            while not self._items and not self._ended:
                self._changed.wait()
            self.waited_get_s += time.perf_counter() - clock
            if self._items:
                item, weight = self._items.popleft()
                self._held -= weight
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
            raise error or Ended

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will be put: what is there can still be got, then `error` is raised, once, or Ended."""
        with self._changed:
            if not self._ended:  # after `close` nobody wants to know
                self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be got: drop what is there and wake whoever waits."""
        with self._changed:
            self._items.clear()
            self._held = 0
            self._ended, self._error = True, None
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)

    def _has(self, weight: int) -> bool:
        return self._held + weight <= self._capacity
