"""What the trainer and its decode processes agree on: settings, and where things lie in the memory that they share.

Imports little: a feeder imports this before it forks its decode processes, which wait for it.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.units import aligned

__all__ = [
    "ENCODED_FACTOR",
    "ENCODED_HEAD",
    "JOB_BYTES",
    "LOCK_OF_JOBS",
    "LOCK_OF_MEMORY",
    "LOCK_OF_TURNS",
    "PROCESS",
    "ROW_BYTES",
    "TASK",
    "Plan",
    "Result",
    "paged",
]

ROW_BYTES, JOB_BYTES = 96, 32
"""Bytes of one row and of the head of one job. See shared_tables.py."""

_HEAD_BYTES, _PROCESS_BYTES = 64, 16
"""Bytes for `SharedAllowance`, and for the id and the CPU time of each process."""

LOCK_OF_JOBS, LOCK_OF_MEMORY, LOCK_OF_TURNS = range(3)
"""Bytes of the memory's file that the decode processes lock. The kernel frees the locks of a process that dies."""

PROCESS = struct.Struct("<qd")
"""What each process writes: its id and its seconds of CPU time."""

TASK = struct.Struct("<HHII")
"""A task: the job's slot, 1 for masks, and the first row and the row after the last. Written and read as a whole."""

ENCODED_FACTOR, ENCODED_HEAD = 4, 64 * 1024
"""An image that is encoded again takes at most 4 times its pixels: JPEG needs up to 26 bits for 8. And its header."""


class Plan(Struct, frozen=True, kw_only=True):
    """The order in the memory: head, processes, jobs, rows, then the bench of each slot, then the shelf."""

    image: ImageConfig
    decode: DecodeConfig
    processes: int
    slots: int
    """How many jobs (the images or masks of one batch) may be under way."""
    rows: int
    """How many rows a job may have: one for each view of an image."""
    bench: int
    """Bytes of pixels that a job may have. Each slot has a place of its own for them, so that decoding never waits."""
    shelf: int
    """Bytes for pixels that the trainer gets without a copy."""
    memory: int
    """Bytes that images may take while they are decoded, in all processes together."""

    @property
    def jobs_at(self) -> int:
        """Returns where the heads of the jobs begin."""
        return _HEAD_BYTES + self.processes * _PROCESS_BYTES

    @property
    def rows_at(self) -> int:
        """Returns where the rows of the jobs begin."""
        return aligned(self.jobs_at + self.slots * JOB_BYTES)

    @property
    def benches_at(self) -> int:
        """Returns where the benches begin."""
        return paged(self.rows_at + self.slots * self.rows * ROW_BYTES)

    @property
    def shelf_at(self) -> int:
        """Returns where the shelf begins."""
        return self.benches_at + self.slots * self.bench

    @property
    def total(self) -> int:
        """Returns the bytes of the whole memory. Pages cost memory once written."""
        return self.shelf_at + self.shelf

    def process_at(self, number: int) -> int:
        """Returns where a process writes its id and its CPU time: `PROCESS`."""
        return _HEAD_BYTES + number * _PROCESS_BYTES


class Result(Struct, frozen=True, array_like=True):
    """A message of a decode process about a job."""

    slot: int
    done: bool = False
    """Whether all rows of the job are done. Sent once for each job."""
    failures: dict[int, str] = {}
    """Index of an image -> the decoder's error."""
    problem: tuple[str, str, str] | None = None
    """Type, text and traceback of an unexpected error."""


def paged(size: int) -> int:
    """Returns the size, rounded up to whole pages of memory."""
    return -(-size // 4096) * 4096
