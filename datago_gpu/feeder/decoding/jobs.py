"""Writes jobs for the decode processes into the shared memory, and reads their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decoders.decoder import EncodedImages, Payloads
from datago_gpu.errors import DatagoError
from datago_gpu.feeder.decoding.decode_pool import Pool
from datago_gpu.feeder.decoding.memory_plan import TASK, Result
from datago_gpu.feeder.decoding.shared_tables import Tables
from datago_gpu.feeder.decoding.shelf import Part, Shelf
from datago_gpu.units import aligned

__all__ = ["Job", "Jobs"]

_TASKS_A_PROCESS = 4
"""A job has this many tasks for each process, so that all of them finish at about the same time."""
_MOST_TASKS = 256
"""The tasks of a job fit into one write to a pipe, which is atomic up to 4096 bytes."""


@dataclass(slots=True)
class Job:
    """The images or masks of one batch, being decoded."""

    slot: int
    at: int
    """Where its pixels begin in the memory."""
    part: Part | None
    """Where its pixels lie on the shelf; None if they lie on the slot's bench."""
    starts: list[int]
    """Where the pixels of each view begin in the memory."""
    views: int
    """How many views each image has."""


class Jobs:
    """Starts jobs and waits for them. For one thread, and for all decoders of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool, plan = pool, pool.plan
        self.memory = pool.memory
        self._tables = Tables(plan, pool.memory)
        self._shelf = Shelf(pool.memory, plan.shelf_at, plan.shelf)
        self._free = list(range(plan.slots))
        self._waiting: deque[Callable[[], None]] = deque()
        """What starts further jobs, once slots are free."""
        self._done: set[int] = set()
        self._failures: dict[int, dict[int, str]] = {}
        pool.closing.append(self._let_go)

    def _let_go(self) -> None:
        """Drops all views of the memory. The traceback of an error may keep this object."""
        del self._tables, self._shelf, self.memory

    def begin(self, start: Callable[[], None]) -> None:
        """Calls `start`, which starts a job, at once or in a later `begin_waiting`, in the order of the calls.

        There are slots for the parts that the settings name; rows of the program's own may have others.
        """
        self._waiting.append(start)
        self.begin_waiting()

    def begin_waiting(self) -> None:
        """Starts the jobs that wait, as far as slots are free."""
        while self._free and self._waiting:
            self._waiting.popleft()()

    def drop(self, start: Callable[[], None]) -> None:
        """Drops a job that waits."""
        if start in self._waiting:
            self._waiting.remove(start)

    def start(
        self,
        images: EncodedImages,
        rooms: Sequence[NDArray[np.int64]],
        *,
        mask: bool,
        dtype: np.dtype[Any] | None,
        lends: bool,
    ) -> Job:
        """Starts to decode images. The payloads must lie in the arena.

        rooms: for each view (N,), the bytes that the result of each image may take; the results of a view lie behind
        each other, and begin at a multiple of ALIGNMENT. dtype: of the one array that all images of a view become, or
        None. lends: whether the trainer gets arrays over the shared memory.
        """
        slot, views = self._free.pop(), images.views
        starts = list(accumulate((aligned(int(room.sum())) for room in rooms), initial=0))
        size = starts[-1]
        part = self._shelf.take(size) if lends else None
        at = part.at if part else self._pool.plan.benches_at + slot * self._pool.plan.bench
        if not part and size > self._pool.plan.bench:
            raise ValueError(f"{size} bytes of pixels do not fit into {self._pool.plan.bench}")
        self._failures[slot] = {}
        job = Job(slot, at, part, [at + start for start in starts[:-1]], len(views))
        for number, (view, room) in enumerate(zip(views, rooms, strict=True)):
            rows = self.rows(job, len(images), number)
            self._write(rows, view)
            rows["out_at"], rows["room"], rows["written"] = job.starts[number] + np.cumsum(room) - room, room, 0
        step = -(-len(images) // min(_MOST_TASKS, _TASKS_A_PROCESS * self._pool.plan.processes))
        firsts = range(0, len(images), step)
        head = self._tables.jobs[slot]
        head["left"], head["dense"], head["dtype"] = len(firsts), dtype is not None, dtype.str if dtype else ""
        head["views"] = count = len(views)
        ends = (min(first + step, len(images)) for first in firsts)
        pieces = zip(firsts, ends, strict=True)
        tasks = b"".join(TASK.pack(slot, mask, first * count, end * count) for first, end in pieces)
        try:
            while not self._pool.send(tasks):
                self._take_in(self._pool.receive())
        except BaseException:
            self.end(job, returns=True)
            raise
        return job

    def rows(self, job: Job, count: int, view: int = 0) -> NDArray[Any]:
        """Returns the rows of a view of a job. count: of images."""
        rows: NDArray[Any] = self._tables.rows[job.slot, view : count * job.views : job.views]
        return rows

    def wait(self, job: Job) -> dict[int, str]:
        """Waits until a job is done. Returns the failures: index of the image -> the decoder's error.

        Raises DecodersGone if the processes have ended, DatagoError if one of them has failed unexpectedly.
        """
        while job.slot not in self._done:
            self._take_in(self._pool.receive())
        return dict(sorted(self._failures[job.slot].items()))

    def end(self, job: Job, *, returns: bool) -> None:
        """Frees the slot. returns: whether the part of the shelf goes back, too."""
        self._done.discard(job.slot)
        self._failures.pop(job.slot, None)
        self._free.append(job.slot)
        if returns and job.part:
            job.part.give_back()

    def _take_in(self, result: Result) -> None:
        if result.problem:
            kind, text, trace = result.problem
            if kind == "MemoryError":
                raise MemoryError
            raise DatagoError(f"unexpected error in decoding: {kind}: {text}") from RuntimeError(trace)
        self._failures[result.slot] |= result.failures
        if result.done:
            self._done.add(result.slot)

    @staticmethod
    def _write(rows: NDArray[Any], images: EncodedImages) -> None:
        payloads = images.payloads
        assert isinstance(payloads, Payloads)
        rows["payload_at"], rows["payload_bytes"] = payloads.offsets, payloads.lengths
        rows["size"], rows["region"], rows["orientation"] = images.sizes, images.regions, images.orientations
        rows["flipped"] = 0 if images.flipped is None else images.flipped
        rows["target"] = (images.target or 0) if images.targets is None else images.targets
