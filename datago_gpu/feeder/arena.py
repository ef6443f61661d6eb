"""Shared memory between the feeder and the trainer's process, and who may write where in it.

The memory is anonymous (`memfd`), passed on as a file descriptor: it needs no room in /dev/shm, has no name that a
crash could leave behind, and is gone with the last process that holds it.
"""

from __future__ import annotations

import mmap
import os
from collections import deque

__all__ = ["ALIGNMENT", "Ring", "aligned", "create", "map_memory"]

ALIGNMENT = 64
"""Bytes; each payload begins at a multiple of it."""


def aligned(size: int) -> int:
    """The size, rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def create(size: int) -> int:
    """A file descriptor of `size` bytes of fresh shared memory. The caller owns it. Pages cost memory once written."""
    descriptor = os.memfd_create("datago_gpu-arena", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


def map_memory(descriptor: int) -> mmap.mmap:
    """Map all of it. Closes the descriptor: the mapping alone keeps the memory."""
    memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    os.close(descriptor)
    return memory


class Ring:
    """Hands out contiguous pieces of the memory, in order round and round. Knows offsets, touches no memory.

    Pieces may be given back in any order; room is made once the oldest is back.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: deque[tuple[int, int, int]] = deque()  # (key, begin, end), oldest first
        self._returned: set[int] = set()

    def take(self, key: int, size: int) -> int | None:
        """The offset of `size` bytes (at least 1), or None while there is no room. `key` names the piece."""
        begin = self._find(size)
        if begin is not None:
            self._pieces.append((key, begin, begin + size))
        return begin

    def give_back(self, key: int) -> None:
        """The piece may be written again."""
        self._returned.add(key)
        while self._pieces and self._pieces[0][0] in self._returned:
            self._returned.remove(self._pieces.popleft()[0])

    def __len__(self) -> int:
        """How many pieces are in use."""
        return len(self._pieces) - len(self._returned)

    def _find(self, size: int) -> int | None:
        if not self._pieces:
            return 0 if size <= self.size else None
        (_, first, _), (_, newest, last) = self._pieces[0], self._pieces[-1]
        if newest < first:  # wrapped round: what is free lies between the newest and the oldest
            return last if last + size <= first else None
        if last + size <= self.size:
            return last
        return 0 if size <= first else None
