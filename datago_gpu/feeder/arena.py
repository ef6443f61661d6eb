"""Shared memory between the feeder and the trainer's process, and who may write where in it.

The memory is anonymous (`memfd`), passed on as a file descriptor: it needs no room in /dev/shm, has no name that a
crash could leave behind, and is gone with the last process that holds it.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["ALIGNMENT", "Room", "aligned", "create", "map_memory"]

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
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


class Room:
    """Hands out pieces of the memory, the lowest that fits first. Knows offsets, touches no memory.

    There are only ever a few pieces. Taking the lowest uses the same pages again and again: a ring round the whole
    memory has each page faulted in, which costs as much as receiving the bytes, and finds nothing in a cache.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: dict[int, tuple[int, int]] = {}  # key -> (begin, end)

    def take(self, key: int, size: int) -> int | None:
        """The offset of `size` bytes, or None while there is no room. `key` names the piece, to give it back.

        Raises ValueError where the memory is too small at any time: nobody shall wait for that.
        """
        if size > self.size:
            raise ValueError(f"{size} bytes do not fit into a memory of {self.size}")
        begin = 0
        for taken, end in sorted(self._pieces.values()):
            if begin + size <= taken:
                break
            begin = end
        if begin + size > self.size:
            return None
        self._pieces[key] = (begin, begin + size)
        return begin

    def give_back(self, key: int) -> None:
        """The piece may be written again. Raises KeyError if it is not taken."""
        del self._pieces[key]

    def __len__(self) -> int:
        """How many pieces are taken."""
        return len(self._pieces)
