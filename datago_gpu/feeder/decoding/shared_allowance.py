"""A memory limit that the decode processes share: `Allowance` across processes."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from datago_gpu.feeder.decoding.memory_plan import LOCK_OF_MEMORY, LOCK_OF_TURNS
from datago_gpu.heap import give_memory_back
from datago_gpu.imaging.allowance import KEPT

__all__ = ["SharedAllowance", "locked"]

_STATE = struct.Struct("<qq")
"""At the beginning of the memory: the bytes that are taken, and whether a process waits."""


@contextmanager
def locked(file: int, byte: int) -> Iterator[None]:
    """Holds a lock that only one process can hold. The kernel frees the lock if the process dies."""
    fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


class SharedAllowance:
    """A memory limit for single-threaded processes. A request above the limit waits until it can run alone.

    file, memory: the shared memory, all zeros at first. Made before the processes are forked.
    processes: each keeps freed memory in its heap, together at most `capacity` bytes.
    """

    def __init__(self, capacity: int, processes: int, file: int, memory: mmap.mmap) -> None:
        self.capacity, self._file, self._memory = capacity, file, memory
        self._large = min(KEPT, capacity // processes)
        self._freed, self._free = os.pipe()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Waits for room and reserves `size` bytes for the `with` block. First come, first served."""
        with locked(self._file, LOCK_OF_TURNS):
            while not self._takes(size):
                os.read(self._freed, 1)
        try:
            yield
        finally:
            if size >= self._large:
                give_memory_back()
            self._give_back(size)

    def _takes(self, size: int) -> bool:
        with locked(self._file, LOCK_OF_MEMORY):
            held, _ = _STATE.unpack_from(self._memory)
            fits = not held or held + size <= self.capacity
            _STATE.pack_into(self._memory, 0, held + size if fits else held, not fits)
            return fits

    def _give_back(self, size: int) -> None:
        with locked(self._file, LOCK_OF_MEMORY):
            held, is_awaited = _STATE.unpack_from(self._memory)
            _STATE.pack_into(self._memory, 0, held - size, 0)
        if is_awaited:
            os.write(self._free, b"\0")
