"""Groups rows into global batches: batches of all ranks together, each of one bucket.

A global batch of a bucket is complete with its last row, and batches are in the order in which they become complete.
The batches that are not complete at the end follow in the order of their first rows, filled with repeats of their own
rows; or they are left out. So the order of rows decides everything: `StreamPlanner` of `stream_planner.py`, which sees
one row after the other, returns the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from datago_gpu.plan.stream_planner import Planned
from datago_gpu.plan.taken import Together, rows_together

T = TypeVar("T", bound=np.generic)

__all__ = ["GlobalBatches", "gathered", "group"]


@dataclass(frozen=True, slots=True, eq=False)
class GlobalBatches:
    """The global batches of an epoch, or of the rest of one. A batch has G rows: `batch_size` x `world_size`, or with
    `batch_pixels` as many as its bucket allows. The rows of all steps lie one behind the other."""

    buckets: NDArray[np.int32]
    """(steps, 2): height and width of the images of each step."""
    places: NDArray[np.int64]
    """The number of the row at each place of step 0, of step 1, and so on."""
    real_places: NDArray[np.bool_]
    """As `places`: false where a row is repeated to fill the last batch of its bucket."""
    starts: NDArray[np.int64]
    """(steps + 1,): where each step begins in `places`, and the end."""
    widest: int
    """The largest G of any bucket."""
    left_out: NDArray[np.int64]
    """Numbers of the rows that are in no batch, because their batches are not complete and `drop_last` is true."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """(steps,): G of each step."""
        return np.diff(self.starts)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(steps, G): the number of the row at each place. Rank r of W has the places r, r + W, r + 2W, ...

        With `batch_pixels` G is the largest of any bucket, and the places behind `counts` are -1.
        """
        return self._as_steps(self.places, -1)

    @property
    def real(self) -> NDArray[np.bool_]:
        """(steps, G): false where a row is repeated to fill the last batch of its bucket, and where `rows` is -1."""
        return self._as_steps(self.real_places, False)

    def __len__(self) -> int:
        """Returns the number of steps."""
        return len(self.buckets)

    def __repr__(self) -> str:
        return f"GlobalBatches({len(self)} steps of {self.widest}, {int(self.real_places.sum())} rows)"

    def step(self, number: int) -> slice:
        """Returns where a step lies in `places`."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def taken(self, steps: int) -> NDArray[np.int64]:
        """Returns the numbers of the rows in the first `steps` batches, each once."""
        end = self.starts[steps]
        return self.places[:end][self.real_places[:end]]

    @property
    def complete(self) -> int:
        """The number of batches without repeats, which are the first ones."""
        if not len(self):
            return 0
        return int(np.logical_and.reduceat(self.real_places, self.starts[:-1]).sum())

    def drop_last(self, taken: int) -> GlobalBatches:
        """Returns the batches without those that are not complete and not among the first `taken`."""
        kept = max(taken, self.complete)
        end = self.starts[kept]
        left_out = self.places[end:][self.real_places[end:]]
        ends = self.starts[: kept + 1]
        return GlobalBatches(
            self.buckets[:kept], self.places[:end], self.real_places[:end], ends, self.widest, left_out
        )

    def _as_steps(self, values: NDArray[T], empty: int) -> NDArray[T]:
        if len(values) == len(self) * self.widest:
            return values.reshape(-1, self.widest)
        found = np.full((len(self), self.widest), empty, values.dtype)
        found[np.arange(self.widest) < self.counts[:, None]] = values
        return found


def group(
    order: NDArray[np.int64], bucket_of: NDArray[np.integer], sizes: NDArray[np.int32], together: Together
) -> GlobalBatches:
    """Groups rows into global batches.

    order: the rows' numbers, in the order in which they are seen. bucket_of: the bucket of each row number; rows with a
    negative one are left out. sizes: (buckets, 2), height and width of each bucket. together: G.
    """
    found = bucket_of[order]
    if (found < 0).any():
        usable = found >= 0
        order, found = order[usable], found[usable]
    by_bucket = found.argsort(kind="stable")  # of 16-bit numbers: a radix sort
    counts = np.bincount(found, minlength=len(sizes))
    runs = np.split(by_bucket, counts.cumsum()[:-1])
    each = _together_of_each(together, sizes)
    full = [run[: len(run) - len(run) % count].reshape(-1, count) for run, count in zip(runs, each, strict=True)]
    tails = [(run[len(run) - len(run) % count :], count) for run, count in zip(runs, each, strict=True)]
    tails = sorted((tail for tail in tails if len(tail[0])), key=lambda tail: int(tail[0][0]))
    places, real, starts = _in_order(full, tails)
    buckets = sizes[found[places[starts[:-1]]]]
    return GlobalBatches(buckets, order[places], real, starts, max(each), np.empty(0, np.int64))


def _together_of_each(together: Together, sizes: NDArray[np.int32]) -> list[int]:
    return [rows_together(together, (height, width)) for height, width in sizes.tolist()]


_Tail = tuple[NDArray[np.int64], int]
"""The positions of the rows of a batch that is not complete, and G of its bucket."""


def _in_order(
    full: list[NDArray[np.int64]], tails: list[_Tail]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Returns the positions of the rows at all places, which of them are real, and where each step begins.

    full: of each bucket, (batches, G): the positions of the rows of complete batches, which come in the order of their
    last rows. tails: the batches that follow; they repeat their own rows.
    """
    counts = np.concatenate([np.full(len(batches), batches.shape[1]) for batches in full])
    by_end = np.concatenate([batches[:, -1] for batches in full]).argsort()
    starts = np.array([0, *counts[by_end].tolist(), *(count for _, count in tails)], np.int64).cumsum()
    places, real = np.empty(starts[-1], np.int64), np.ones(starts[-1], np.bool_)
    step_of = np.empty(len(by_end), np.int64)
    step_of[by_end] = np.arange(len(by_end))
    first = 0
    for batches in full:
        begins = starts[step_of[first : first + len(batches)]]
        places[begins[:, None] + np.arange(batches.shape[1])] = batches
        first += len(batches)
    for begin, (tail, count) in zip(starts[len(by_end) :], tails, strict=False):
        places[begin : begin + count] = np.resize(tail, count)
        real[begin + len(tail) : begin + count] = False
    return places, real, starts


def gathered(
    batches: Sequence[Planned[int]], together: Together, widest: int, left_out: Sequence[int]
) -> GlobalBatches:
    """Returns batches that were planned one after the other as arrays. Their rows are numbers.

    widest: the largest G of any bucket.
    """
    buckets = np.array([batch.bucket for batch in batches], np.int32).reshape(-1, 2)
    counts = [rows_together(together, batch.bucket) for batch in batches]
    nothing = np.empty(0, np.int64)
    places = np.concatenate(
        [nothing, *(np.resize(batch.rows, count) for batch, count in zip(batches, counts, strict=True))]
    ).astype(np.int64)
    real = [np.arange(count) < len(batch.rows) for batch, count in zip(batches, counts, strict=True)]
    starts = np.cumsum([0, *counts], dtype=np.int64)
    real_places = np.concatenate([nothing.astype(np.bool_), *real])
    return GlobalBatches(buckets, places, real_places, starts, widest, np.array(left_out, np.int64))
