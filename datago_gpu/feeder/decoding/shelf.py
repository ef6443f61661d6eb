"""Hands out parts of the shared memory as numpy arrays, and takes them back when nobody has such an array any more."""

from __future__ import annotations

import mmap
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

from datago_gpu.feeder.arena import Allocator
from datago_gpu.feeder.decoding.forks import Fork, register
from datago_gpu.units import aligned

__all__ = ["Part", "Shelf"]


class Shelf:
    """The part of the memory that holds the pixels of delivered batches. For one thread, but for the arrays.

    A process that is forked from this one shares the pixels of all arrays. Their parts go back when it has ended, too.

    memory: also holds other things; the shelf takes `size` bytes from `begin` on.
    """

    def __init__(self, memory: mmap.mmap, begin: int, size: int) -> None:
        self.memory, self._begin, self._room = memory, begin, Allocator(size)
        self._number = 0
        self._out: set[int] = set()
        """Numbers of the parts that are not back in the room."""
        self._unused: set[int] = set()
        """Those of them that nobody uses in this process, while forks may."""
        self._forks: list[tuple[Fork, frozenset[int]]] = []
        """Each fork, and the parts that were out then."""
        self._new_forks: deque[tuple[Fork, frozenset[int]]] = deque()
        self.returned: deque[int] = deque()
        """Numbers of parts that nobody uses. Any thread appends to both, also during a garbage collection: no lock."""
        register(self)

    def take(self, size: int) -> Part | None:
        """Returns a part of `size` bytes, or None while there is no room."""
        if self.returned or self._unused:
            self._take_back()
        if not 0 < aligned(size) <= self._room.size:
            return None
        at = self._room.take(self._number + 1, aligned(size))
        if at is None:
            return None
        self._number += 1
        self._out.add(self._number)
        return Part(self, self._number, self._begin + at, size)

    def keep_for(self, fork: Fork) -> None:
        """Keeps all parts that are out until the forked process has ended."""
        self._new_forks.append((fork, frozenset(self._out)))

    def _take_back(self) -> None:
        while self.returned:
            self._unused.add(self.returned.popleft())
        while self._new_forks:  # looked at after `returned`, so that no part goes back before a fork that shares it
            self._forks.append(self._new_forks.popleft())
        self._forks = [(fork, parts) for fork, parts in self._forks if not fork.is_over()]
        free = self._unused.difference(*(parts for _, parts in self._forks))
        for number in free:
            self._room.give_back(number)
        self._unused -= free
        self._out -= free


class Part:
    """Some bytes of a shelf. Give it back, or make an array of it, which gives it back with its last view."""

    def __init__(self, shelf: Shelf, number: int, at: int, size: int) -> None:
        self._shelf, self._number, self._size = shelf, number, size
        self.at = at
        """Where the part begins in the memory."""

    def give_back(self) -> None:
        """Makes room for other parts."""
        self._shelf.returned.append(self._number)

    def array(self) -> NDArray[np.uint8]:
        """Returns the bytes as an array. Call this once.

        numpy makes this array the `base` of each array made from it, because its own base is no array. So it lives as
        long as any of them, or a tensor that shares its memory.
        """
        array = np.frombuffer(self._shelf.memory, np.uint8, self._size, self.at)
        weakref.finalize(array, self._shelf.returned.append, self._number).atexit = False
        return array
