"""Between an event loop and the thread that unpacks a shard: bytes go in by a Pipe, samples come out by an Outlet.

Both hold a bounded number of bytes, and both can be ended and given up from either side.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from threading import Condition, Lock
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Budget", "GivenUp", "Outlet", "Pipe"]

T = TypeVar("T")
_ENOUGH = 512
"""Bytes that a read waits for: with fewer, nothing can be told of what a stream holds."""
_WORTH_WAKING = 256 * 1024
_PATIENCE_S = 0.005
"""How long a read that has some bytes waits for so many: not to wake the thread for each piece saves 5 to 13% of the
feeder's time."""


class GivenUp(Exception):
    """Nobody wants what comes any more. Raised in the thread."""


class Pipe(io.RawIOBase):
    """A file to a thread, which a coroutine writes. `before_waiting` is called in the thread when nothing is there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: int, before_waiting: Callable[[], None]) -> None:
        self._loop, self._capacity, self._before_waiting = loop, capacity, before_waiting
        self._worth = min(_WORTH_WAKING, capacity)
        self._blocks: deque[memoryview] = deque()
        self._size = 0
        self._changed = Condition()
        self._room = asyncio.Event()
        self._ended = self._given_up = False
        self._error: Exception | None = None

    async def put(self, block: bytes) -> None:
        """Write a piece. Returns once there is room for a further one."""
        with self._changed:
            few = self._size < _ENOUGH
            self._blocks.append(memoryview(block))
            self._size += len(block)
            full = self._size >= self._capacity
            if full:
                self._room.clear()
            if few or self._size >= self._worth:
                self._changed.notify()
        if full:
            await self._room.wait()

    def end(self, error: Exception | None = None) -> None:
        """Say that nothing follows; the reader gets what is there, and then `error`."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def give_up(self) -> None:
        """Have the reader stop, wherever it is."""
        with self._changed:
            self._given_up = True
            self._changed.notify()

    @property
    def _stops(self) -> bool:
        return self._ended or self._given_up

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As of any raw file; in the thread. Raises what `end` was given, or GivenUp."""
        target = memoryview(buffer).cast("B")
        if not self._blocks and not self._ended:
            self._before_waiting()
        with self._changed:
            self._changed.wait_for(lambda: self._size >= min(len(target), _ENOUGH) or self._stops)
            self._changed.wait_for(lambda: self._size >= min(len(target), self._worth) or self._stops, _PATIENCE_S)
            if self._given_up:
                raise GivenUp
            if self._error is not None and not self._size:
                raise self._error
            was_full = self._size >= self._capacity
            filled = self._fill(target)
            if was_full and self._size < self._capacity:
                self._loop.call_soon_threadsafe(self._room.set)
        return filled

    def _fill(self, target: memoryview) -> int:
        filled = 0
        while self._blocks and filled < len(target):
            block = self._blocks[0]
            count = min(len(block), len(target) - filled)
            target[filled : filled + count] = block[:count]
            filled += count
            if count == len(block):
                self._blocks.popleft()
            else:
                self._blocks[0] = block[count:]
        self._size -= filled
        return filled


class Budget:
    """Bytes that several outlets may hold together. What is freed goes to the one whose turn comes next."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self.lock = Lock()
        self.waiting: dict[int, Condition] = {}
        """By number, the outlets that wait for room."""

    def give_back(self, size: int) -> None:
        """Count what is held no longer. With the lock held."""
        self.held -= size
        self.wake()

    def wake(self) -> None:
        """Let the first that waits look whether there is room for it. With the lock held."""
        if self.waiting:
            self.waiting[min(self.waiting)].notify()


class Outlet(Generic[T]):
    """Lots of items from a thread to a coroutine, within a Budget of bytes, as told with each lot.

    number: its turn among the outlets of that budget: the least takes precedence. Of each, one lot always fits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: Budget, number: int) -> None:
        self._loop, self._budget, self._number = loop, budget, number
        self._lots: deque[tuple[list[T], int]] = deque()
        self._changed = Condition(budget.lock)
        self._news = asyncio.Event()
        self._ended = self._given_up = False
        self._error: Exception | None = None

    def put(self, items: list[T], size: int) -> None:
        """Hand over, in the thread, once there is room. Raises GivenUp."""
        with self._changed:
            self._wait_for_room(size)
            if self._given_up:
                raise GivenUp
            self._lots.append((items, size))
            self._budget.held += size
            self._tell()

    def _wait_for_room(self, size: int) -> None:
        budget = self._budget
        while self._lots and budget.held + size > budget.capacity and not self._given_up:
            budget.waiting[self._number] = self._changed
            self._changed.wait()
            del budget.waiting[self._number]
            budget.wake()

    def end(self, error: Exception | None = None) -> None:
        """Say, in the thread, that nothing follows; `error` is raised behind what is there."""
        with self._changed:
            self._ended, self._error = True, error
            self._tell()

    def give_up(self) -> None:
        """Have the thread stop at its next `put`."""
        with self._changed:
            self._given_up = True
            while self._lots:
                self._budget.give_back(self._lots.popleft()[1])
            self._changed.notify()

    async def lots(self) -> AsyncGenerator[list[T], None]:
        """What the thread hands over, in its order."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._lots:
                with self._changed:
                    items, size = self._lots.popleft()
                    self._budget.give_back(size)
                yield items
            if self._ended and not self._lots:
                break
        if self._error is not None:
            raise self._error

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._news.set)
