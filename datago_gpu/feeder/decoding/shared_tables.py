"""The tables in the memory that the trainer shares with its decode processes, as numpy arrays over this memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.feeder.decoding.memory_plan import JOB_BYTES, ROW_BYTES, Plan

__all__ = ["Tables"]

_JOB = np.dtype(
    {
        "names": ["left", "dense", "dtype", "views"],
        "formats": ["<i4", "<i4", "S8", "<i4"],
        "itemsize": JOB_BYTES,
    }
)
"""left: tasks that are not done. dense: whether the pixels of each view become one array, and of which dtype. views:
rows of an image, one for each of its views."""

_ROW = np.dtype(
    {
        "names": [
            *("payload_at", "payload_bytes", "out_at", "room", "written"),
            *("region", "size", "target", "shape", "orientation", "flipped", "dtype"),
        ],
        "formats": ["<i8"] * 5 + [("<f4", 4), ("<i4", 2), ("<i4", 2), ("<i4", 3), "<i4", "<i4", "S4"],
        "itemsize": ROW_BYTES,
    }
)
"""One view of an image: where its payload lies in the arena, what `EncodedImages` says of it (a target of 0 is none),
and where in the memory and with how many bytes its pixels may lie. The decode process adds the bytes written, shape and
dtype."""


class Tables:
    """Gives access to the tables. memory: laid out as the plan says."""

    def __init__(self, plan: Plan, memory: mmap.mmap) -> None:
        self.jobs: NDArray[Any] = np.frombuffer(memory, _JOB, plan.slots, plan.jobs_at)
        rows = np.frombuffer(memory, _ROW, plan.slots * plan.rows, plan.rows_at)
        self.rows: NDArray[Any] = rows.reshape(plan.slots, plan.rows)
        """(slots, rows)"""
