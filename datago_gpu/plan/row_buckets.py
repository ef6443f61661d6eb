"""Finds the buckets of many rows at once, as `BucketChoice.choose` does for one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datago_gpu.imaging.buckets import BucketChoice
from datago_gpu.imaging.geometry import BucketTable

__all__ = ["TOO_SMALL", "UNUSABLE", "row_buckets"]

UNUSABLE = -1
"""The bucket of a row whose size is not known."""
TOO_SMALL = -2
"""The bucket of a row whose picture is too small."""

_AT_ONCE = 1 << 18
"""Rows that are computed at once, which bounds the memory of intermediate results."""


def row_buckets(sizes: NDArray[np.integer], choice: BucketChoice) -> NDArray[np.int16]:
    """Returns the number of each row's bucket in `choice.sizes`, (N,); a negative number where a row has none:
    UNUSABLE where a side is not above 0, else TOO_SMALL.

    sizes: (N, 2), height and width.
    """
    found = np.empty(len(sizes), np.int16)
    numbers = {size: number for number, size in enumerate(choice.sizes)}
    tables = [_Table(table, numbers, choice) for table in choice.tables]
    for start in range(0, len(sizes), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = _choose(sizes[part], tables, choice)
    return found


class _Table:
    """A table of buckets as arrays."""

    def __init__(self, table: BucketTable, numbers: dict[tuple[int, int], int], choice: BucketChoice) -> None:
        self.aspects = np.array(table.aspects)
        self.needed = np.array([choice.needed(size) for size in table.sizes], np.int32)
        self.numbers = np.array([numbers[size] for size in table.sizes], np.int64)
        """The number of each bucket in `BucketChoice.sizes`."""


def _choose(sizes: NDArray[np.integer], tables: list[_Table], choice: BucketChoice) -> NDArray[np.int64]:
    height, width = sizes[:, 0], sizes[:, 1]
    known = (height > 0) & (width > 0)
    aspect = np.where(known, width, 1) / np.where(known, height, 1)
    *larger, smallest = tables
    nearest = _nearest(aspect, smallest.aspects)
    found = smallest.numbers[nearest]
    if not choice.upscale:
        found = np.where(_fills(sizes, smallest.needed[nearest]), found, TOO_SMALL)
    for table in reversed(larger):
        nearest = _nearest(aspect, table.aspects)
        found = np.where(_fills(sizes, table.needed[nearest]), table.numbers[nearest], found)
    if choice.least_edge:
        found = np.where(np.minimum(height, width) < choice.least_edge, TOO_SMALL, found)
    return np.where(known, found, UNUSABLE)


def _fills(sizes: NDArray[np.integer], needed: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Returns whether each picture fills its bucket without being enlarged."""
    return (sizes[:, 0] >= needed[:, 0]) & (sizes[:, 1] >= needed[:, 1])


def _nearest(aspect: NDArray[np.float64], aspects: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the number of the nearest of the `aspects` (ascending) for each `aspect`; in a tie, the wider one."""
    if len(aspects) == 1:
        return np.zeros(len(aspect), np.int64)
    after = np.searchsorted(aspects, aspect).clip(1, len(aspects) - 1)
    # The first and the last bucket need no case of their own: beyond them, the distance to them is the smaller one.
    after -= aspect - aspects[after - 1] < aspects[after] - aspect
    return after
