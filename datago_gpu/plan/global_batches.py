"""Groups rows into global batches: batches of all ranks together, each of one bucket.

A global batch of a bucket is complete with its last row, and batches are in the order in which they become complete.
The batches that are not complete at the end follow in the order of their first rows, filled with repeats of their own
rows; or they are left out. So the order of rows decides everything: `StreamPlanner` of `stream_planner.py`, which sees
one row after the other, returns the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datago_gpu.plan.row_buckets import UNUSABLE
from datago_gpu.plan.stream_planner import Planned

__all__ = ["GlobalBatches", "gathered", "group"]


@dataclass(frozen=True, slots=True, eq=False)
class GlobalBatches:
    """The global batches of an epoch, or of the rest of one. G = batch_size x world_size."""

    buckets: NDArray[np.int32]
    """(steps, 2): height and width of the images of each step."""
    rows: NDArray[np.int64]
    """(steps, G): the number of the row at each place. Rank r of W has the places r, r + W, r + 2W, ..."""
    real: NDArray[np.bool_]
    """(steps, G): false where a row is repeated to fill the last batch of its bucket."""
    left_out: NDArray[np.int64]
    """Numbers of the rows that are in no batch, because their batches are not complete and `drop_last` is true."""

    def __len__(self) -> int:
        """Returns the number of steps."""
        return len(self.rows)

    def __repr__(self) -> str:
        return f"GlobalBatches({len(self)} steps of {self.rows.shape[1]}, {int(self.real.sum())} rows)"

    def taken(self, steps: int) -> NDArray[np.int64]:
        """Returns the numbers of the rows in the first `steps` batches, each once."""
        return self.rows[:steps][self.real[:steps]]

    def drop_last(self, taken: int) -> GlobalBatches:
        """Returns the batches without those that are not complete and not among the first `taken`."""
        kept = max(taken, int(self.real.all(axis=1).sum()))
        left_out = self.rows[kept:][self.real[kept:]]
        return GlobalBatches(self.buckets[:kept], self.rows[:kept], self.real[:kept], left_out)


def group(
    order: NDArray[np.int64], bucket_of: NDArray[np.integer], sizes: NDArray[np.int32], together: int
) -> GlobalBatches:
    """Groups rows into global batches of `together` (G) rows.

    order: the rows' numbers, in the order in which they are seen. bucket_of: the bucket of each row number; rows with
    UNUSABLE are left out. sizes: (buckets, 2), height and width of each bucket.
    """
    found = bucket_of[order]
    if (found == UNUSABLE).any():
        usable = found != UNUSABLE
        order, found = order[usable], found[usable]
    by_bucket = found.argsort(kind="stable")  # of 16-bit numbers: a radix sort
    counts = np.bincount(found, minlength=len(sizes))
    starts = counts.cumsum() - counts
    full, tails = _full(by_bucket, starts, counts, together), _tails(by_bucket, starts, counts, together)
    del by_bucket
    places, real = _with_tails(full, tails, together)
    return GlobalBatches(sizes[found[places[:, 0]]], order[places], real, np.empty(0, np.int64))


def _full(
    by_bucket: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64], together: int
) -> NDArray[np.int64]:
    """Returns the positions of the rows of complete batches, (steps, G), in the order of the batches' last rows."""
    runs = [by_bucket[start : start + count - count % together] for start, count in zip(starts, counts, strict=True)]
    places = np.concatenate([run.reshape(-1, together) for run in runs])
    return places[places[:, -1].argsort()]


def _tails(
    by_bucket: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64], together: int
) -> list[NDArray[np.int64]]:
    """Returns the positions of the rows of each batch that is not complete, in the order of the batches' first rows."""
    ends = starts + counts
    tails = [by_bucket[end - rest : end] for end, rest in zip(ends, counts % together, strict=True) if rest]
    return sorted(tails, key=lambda tail: int(tail[0]))


def _with_tails(
    full: NDArray[np.int64], tails: list[NDArray[np.int64]], together: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns all positions, and which of them are real: batches that are not complete repeat their own rows."""
    real = np.ones((len(full) + len(tails), together), np.bool_)
    if not tails:
        return full, real
    for row, tail in zip(real[len(full) :], tails, strict=True):
        row[len(tail) :] = False
    return np.concatenate([full, [np.resize(tail, together) for tail in tails]]), real


def gathered(batches: Sequence[Planned[int]], together: int, left_out: Sequence[int]) -> GlobalBatches:
    """Returns batches that were planned one after the other as arrays. Their rows are numbers."""
    buckets = np.array([batch.bucket for batch in batches], np.int32).reshape(-1, 2)
    rows = np.array([np.resize(batch.rows, together) for batch in batches], np.int64).reshape(-1, together)
    counts = np.array([len(batch.rows) for batch in batches], np.int64)
    real = np.arange(together) < counts[:, None]
    return GlobalBatches(buckets, rows, real, np.array(left_out, np.int64))
