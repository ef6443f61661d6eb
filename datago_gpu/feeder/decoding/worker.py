"""A decode process: takes tasks, decodes their rows one after the other, and reports each job once."""

from __future__ import annotations

import math
import mmap
import os
import socket
import time
import traceback
from contextlib import nullcontext
from typing import Any

import numpy as np
from msgspec import msgpack
from numpy.typing import NDArray

from datago_gpu.decoders.decoder import EncodedImage
from datago_gpu.decoders.output_format import OutputFormat
from datago_gpu.decoders.renderer import Renderer, is_small
from datago_gpu.errors import Rejected
from datago_gpu.feeder.decoding.memory_plan import LOCK_OF_JOBS, PROCESS, TASK, Plan, Result
from datago_gpu.feeder.decoding.shared_allowance import SharedAllowance, locked
from datago_gpu.feeder.decoding.shared_tables import Tables

__all__ = ["Worker"]

_OF_IMAGE = ["payload_at", "payload_bytes", "size", "region", "orientation", "target", "flipped"]
"""The columns of a row that say what the image is, as `Worker._image` takes them."""


class Worker:
    """Serves tasks until the other end of the pipe is closed. For the only thread of a process.

    file, memory: the memory shared with the trainer, laid out as the plan says. arena: holds the payloads.
    tasks, results: the process's ends of the pipe and of the socket.
    """

    def __init__(
        self,
        plan: Plan,
        arena: mmap.mmap,
        file: int,
        memory: mmap.mmap,
        allowance: SharedAllowance,
        tasks: int,
        results: socket.socket,
    ) -> None:
        self._plan, self._memory, self._file = plan, memory, file
        self._payloads, self._tables = np.frombuffer(arena, np.uint8), Tables(plan, memory)
        self._given = self._tables.rows[_OF_IMAGE]
        self._allowance, self._tasks, self._results = allowance, tasks, results
        self._kinds = [_Kind(plan, mask=False), _Kind(plan, mask=True)]

    def run(self, number: int) -> None:
        """Serves tasks. number: of this process, from 0."""
        while True:
            PROCESS.pack_into(self._memory, self._plan.process_at(number), os.getpid(), time.process_time())
            task = os.read(self._tasks, TASK.size)
            if not task:
                return
            slot, kind, first, end = TASK.unpack(task)
            self._serve(slot, self._kinds[kind], first, end)

    def _serve(self, slot: int, kind: _Kind, first: int, end: int) -> None:
        failures: dict[int, str] = {}
        job = self._tables.jobs[slot]
        dense = np.dtype(job["dtype"].decode()) if job["dense"] else None
        views = int(job["views"])
        given = self._given[slot, first:end].tolist()  # reading the fields of a row one by one takes 2 us longer
        for row in range(first, end, views):
            try:
                images = [self._image(*each) for each in given[row - first : row - first + views]]
                self._decode(self._tables.rows[slot, row : row + views], images, kind, dense)
            except Rejected as problem:
                failures[row // views] = str(problem)
            except BaseException as problem:  # a library's panic is no Exception
                told = type(problem).__name__, str(problem), traceback.format_exc()
                self._send(Result(slot, problem=told))
                break
        if failures:
            self._send(Result(slot, failures=failures))
        with locked(self._file, LOCK_OF_JOBS):
            left = job["left"] = job["left"] - 1
        if not left:
            self._send(Result(slot, done=True))

    def _decode(self, rows: NDArray[Any], views: list[EncodedImage], kind: _Kind, dense: np.dtype[Any] | None) -> None:
        """Decodes one image. views: of the image. rows: of the table, one for each view."""
        pixels = views[0].size[0] * views[0].size[1]
        counts = not is_small(pixels, self._plan.processes, self._allowance.capacity)
        with self._allowance.take(kind.renderer.bytes_needed(views)) if counts else nullcontext():
            if dense is None:
                for row, result in zip(rows, kind.renderer.render_views(views, [None] * len(views)), strict=True):
                    self._keep(row, result)
                return
            shapes = [kind.form.shape(*view.target) for view in views if view.target]
            outs = [self._place(row, shape, dense) for row, shape in zip(rows, shapes, strict=True)]
            kind.renderer.render_views(views, outs)

    def _image(
        self,
        at: int,
        length: int,
        size: NDArray[np.int32],
        region: NDArray[np.float32],
        orientation: int,
        target: NDArray[np.int32],
        flipped: int,
    ) -> EncodedImage:
        (height, width), (high, wide) = size.tolist(), target.tolist()
        return EncodedImage(
            self._payloads[at : at + length],
            (height, width),
            tuple(region.tolist()),
            orientation,
            (high, wide) if high else None,
            bool(flipped),
        )

    def _keep(self, row: NDArray[Any], result: NDArray[Any] | bytes) -> None:
        """Writes a result of its own size into the memory."""
        if isinstance(result, bytes):
            self._place(row, (len(result),), np.dtype(np.uint8))[:] = np.frombuffer(result, np.uint8)
            return
        self._place(row, result.shape, result.dtype)[:] = result
        row["shape"], row["dtype"] = result.shape, result.dtype.str.encode()

    def _place(self, row: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Returns the array in the memory that the pixels of a row go to."""
        size = math.prod(shape) * dtype.itemsize
        if size > row["room"]:
            raise Rejected("undecodable", f"takes {size} bytes when decoded, but {row['room']} according to its header")
        row["written"] = size
        return np.ndarray(shape, dtype, self._memory, int(row["out_at"]))

    def _send(self, result: Result) -> None:
        self._results.sendall(msgpack.encode(result))


class _Kind:
    """Decodes images, or masks."""

    def __init__(self, plan: Plan, *, mask: bool) -> None:
        self.renderer = Renderer.of(plan.image, plan.decode, mask=mask)
        self.form = OutputFormat(plan.image, mask=mask)
