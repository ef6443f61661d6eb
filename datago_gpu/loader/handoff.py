"""A bounded queue between two threads. Either side can end it."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

from datago_gpu.wait import Wait

__all__ = ["Ended", "Handoff"]

T = TypeVar("T")


class Ended(Exception):
    """The queue has ended and is empty."""


class Handoff(Generic[T]):
    """Holds at most `size` items, with a total weight of about `capacity`.

    After the end, items that were put before it can still be got. `close` may be called from a signal handler that
    interrupts `get` on the same thread.
    """

    def __init__(self, size: int, capacity: int = 0) -> None:
        self.size, self._capacity, self._held = size, capacity, 0
        self._items: deque[tuple[T, int]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None
        self._getting: set[int] = set()
        """Threads inside `get`."""
        self.put_wait, self.get_wait = Wait("wait for room"), Wait("data wait")
        """The waits of the producer and of the consumer."""

    def wait(self, weight: int) -> bool:
        """Waits until `weight` fits or the queue is empty. Returns False if the other side has closed.

        weight: of the next item, plus all other items that exist but have not been put yet.
        """
        with self._changed:
            self.put_wait.begin()
            self._changed.wait_for(lambda: self._ended or not self._items or self._has(weight))
            self.put_wait.end()
            return not self._ended

    def fits(self, weight: int) -> bool:
        """Returns whether `weight` fits without waiting."""
        with self._changed:
            return self._has(weight)

    def put(self, item: T, weight: int = 0) -> bool:
        """Waits for room and adds an item. Returns False if the other side has closed."""
        with self._changed:
            if len(self._items) >= self.size:
                self.put_wait.begin()
                while len(self._items) >= self.size and not self._ended:
                    self._changed.wait()
                self.put_wait.end()
            if self._ended:
                return False
            self._items.append((item, weight))
            self._held += weight
            self._changed.notify_all()
            return True

    def get(self) -> T:
        """Waits for an item and returns it. After the last one, raises the error given to `end`, or Ended."""
        with self._changed:
            self._getting.add(threading.get_ident())
            try:
                return self._take()
            finally:
                self._getting.discard(threading.get_ident())

    def end(self, error: Exception | None = None) -> None:
        """Called by the producer. `get` returns the remaining items, then raises `error` (once) or Ended."""
        with self._changed:
            if not self._ended:  # after `close`, errors are ignored
                self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Called by the consumer. Drops all items and wakes all waiting threads."""
        with self._changed:
            self._items.clear()
            self._held = 0
            self._ended, self._error = True, None
            self._changed.notify_all()
            if threading.get_ident() in self._getting:
                # A signal handler, perhaps just before `get` starts to wait, where it misses this call. Another thread
                # gets the lock only once `get` waits.
                threading.Thread(target=self._notify, name="datago-wake", daemon=True).start()

    def _take(self) -> T:
        if not self._items:
            self.get_wait.begin()
            try:
                while not self._items and not self._ended:
                    self._changed.wait()
            finally:  # a signal may raise here
                self.get_wait.end()
        with suppress(IndexError):  # a signal handler may close the queue between two steps
            item, weight = self._items.popleft()
            self._held -= weight
            self._changed.notify_all()
            return item
        error, self._error = self._error, None
        raise error or Ended

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)

    def _has(self, weight: int) -> bool:
        return self._held + weight <= self._capacity
