"""Connects an event loop with the thread that unpacks a shard: bytes go in through a Pipe, samples come out of an
Channel.

Both hold a limited number of bytes, and either side can end them or give them up.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Budget", "Channel", "GivenUp", "Pipe"]

T = TypeVar("T")
_ENOUGH = 512
"""Bytes that a read waits for, if they fit: with fewer, the format of a stream cannot be recognised."""
_WORTH_WAKING = 256 * 1024
_PATIENCE_S = 0.005
"""Seconds that a read with some bytes waits for this many: fewer wake-ups save 5 to 13% of the feeder's time."""


class GivenUp(Exception):
    """Says that the result is no longer wanted. Raised in the thread."""


class Pipe(io.RawIOBase):
    """A file that a coroutine writes and a thread reads. `before_waiting` is called in the thread before a read waits.

    capacity: in bytes, at least 1. The last piece that fits may exceed the capacity by any amount.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: int, before_waiting: Callable[[], None]) -> None:
        self._loop, self._capacity, self._before_waiting = loop, capacity, before_waiting
        self._enough, self._worth = min(_ENOUGH, capacity), min(_WORTH_WAKING, capacity)
        self._blocks: deque[memoryview] = deque()
        self._size = 0
        self._changed = Condition()
        self._room = asyncio.Event()
        self._ended = self._given_up = False
        self._error: Exception | None = None

    async def put(self, block: bytes) -> None:
        """Writes a piece. Returns once there is room for another one."""
        with self._changed:
            few = self._size < self._enough
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
        """Ends the pipe: the reader gets the remaining bytes, and then `error`."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def give_up(self) -> None:
        """Makes the reader stop, wherever it is."""
        with self._changed:
            self._given_up = True
            self._changed.notify()

    @property
    def _stops(self) -> bool:
        return self._ended or self._given_up

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """See `io.RawIOBase`; called in the thread. Raises the error that `end` was given, or GivenUp."""
        target = memoryview(buffer).cast("B")
        if self._size < min(len(target), self._enough) and not self._ended:
            self._before_waiting()
        with self._changed:
            self._changed.wait_for(lambda: self._size >= min(len(target), self._enough) or self._stops)
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
    """Limits the bytes that several channels hold together. It is the monitor of all their threads.

    Room is counted before memory is allocated. A thread gets room if there is some and no channel with a lower number
    waits; and always while a reader waits for its channel and the channel is empty. So a reader always gets something,
    whatever the other channels hold, and freed room goes to the channel whose turn comes first. Only `admit` decides
    this, and it wakes a thread only when that thread has its room.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self.lock = Lock()
        self.waiting: dict[int, Channel[Any]] = {}
        """Number -> channel whose thread waits for room."""

    def admit(self) -> None:
        """Gives room to each thread that may have some now. To be called after each change, with the lock held."""
        lower_waits = False
        for number, channel in sorted(self.waiting.items()):
            if channel.is_awaited or (not lower_waits and self.held + channel.asked <= self.capacity):
                del self.waiting[number]
                self.held += channel.asked
                channel.grant()
            else:
                lower_waits = True


class Channel(Generic[T]):
    """Passes lots of items from a thread to a coroutine, within a Budget of bytes. The thread reserves room before it
    allocates memory, and puts lots into the reserved room.

    number: its turn among the channels of that budget; unique.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: Budget, number: int) -> None:
        self._loop, self._budget, self.number = loop, budget, number
        self._lots: deque[tuple[list[T], int]] = deque()
        self._reserved = 0
        """Bytes that the thread has reserved and not filled with a lot."""
        self.asked = 0
        """Bytes that the thread waits for."""
        self._granted = Condition(budget.lock)
        self._news = asyncio.Event()
        self._ended = self._given_up = self._taking = False
        self._error: Exception | None = None

    def has_room(self, size: int) -> bool:
        """Reserves `size` bytes, in the thread, if that needs no wait. Returns whether it did. Raises GivenUp."""
        with self._budget.lock:
            self._ask(size)
            return self._budget.waiting.pop(self.number, None) is None

    def reserve(self, size: int) -> None:
        """Reserves `size` bytes. Returns once there is room. Called in the thread. Raises GivenUp."""
        with self._budget.lock:
            self._ask(size)
            self._granted.wait_for(lambda: self.number not in self._budget.waiting)
            if self._given_up:
                raise GivenUp

    def put(self, items: list[T], size: int) -> None:
        """Hands over a lot of `size` reserved bytes. Called in the thread. Raises GivenUp."""
        with self._budget.lock:
            if self._given_up:
                raise GivenUp
            self._reserved -= size
            self._lots.append((items, size))
            self._tell()

    def give_back(self, size: int) -> None:
        """Releases `size` reserved bytes. Called in the thread."""
        with self._budget.lock:
            self._reserved -= size
            self._release(size)

    @property
    def capacity(self) -> int:
        """Returns the bytes of the whole budget."""
        return self._budget.capacity

    @property
    def is_awaited(self) -> bool:
        """Returns whether a reader waits and no lot is there. To be called with the budget's lock held."""
        return self._taking and not self._lots

    def grant(self) -> None:
        """Gives the thread the room that it waits for. For the Budget, with its lock held."""
        self._reserved += self.asked
        self._granted.notify()

    def end(self, error: Exception | None = None) -> None:
        """Ends the channel; `error` is raised after the remaining lots. Called in the thread."""
        with self._budget.lock:
            self._ended, self._error = True, error
            self._release(self._reserved)
            self._reserved = 0
            self._tell()

    def give_up(self) -> None:
        """Drops all lots, and makes the thread stop when it next reserves room or puts a lot."""
        with self._budget.lock:
            self._given_up = True
            self._budget.waiting.pop(self.number, None)
            self._granted.notify()
            self._release(sum(size for _, size in self._lots))
            self._lots.clear()

    async def take(self) -> list[T] | None:
        """Returns the thread's next lot; None at the end. Raises the error that `end` was given."""
        while True:
            with self._budget.lock:
                self._taking = not self._lots
                if self._lots:
                    items, size = self._lots.popleft()
                    self._release(size)
                    return items
                if self._ended:
                    break
                self._budget.admit()
            await self._news.wait()
            self._news.clear()
        if self._error is not None:
            raise self._error
        return None

    def _ask(self, size: int) -> None:
        if self._given_up:
            raise GivenUp
        self.asked = size
        self._budget.waiting[self.number] = self
        self._budget.admit()

    def _release(self, size: int) -> None:
        self._budget.held -= size
        self._budget.admit()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._news.set)
