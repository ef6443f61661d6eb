"""Finds the buckets of many rows at once, as `BucketTable.nearest` does for one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datago_gpu.imaging.geometry import BucketTable

__all__ = ["UNUSABLE", "row_buckets"]

UNUSABLE = -1
"""The bucket of a row whose size is not known."""

_AT_ONCE = 1 << 18
"""Rows that are computed at once, which bounds the memory of intermediate results."""


def row_buckets(sizes: NDArray[np.integer], table: BucketTable) -> NDArray[np.int16]:
    """Returns the number of each row's bucket in `table.sizes`, (N,); UNUSABLE where a side is not above 0.

    sizes: (N, 2), height and width.
    """
    found = np.empty(len(sizes), np.int16)
    aspects = np.array(table.aspects)
    for start in range(0, len(sizes), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = _nearest(sizes[part], aspects)
    return found


def _nearest(sizes: NDArray[np.integer], aspects: NDArray[np.float64]) -> NDArray[np.int64]:
    height, width = sizes[:, 0], sizes[:, 1]
    usable = (height > 0) & (width > 0)
    aspect = np.where(usable, width, 1) / np.where(usable, height, 1)
    after = np.searchsorted(aspects, aspect).clip(1, max(1, len(aspects) - 1))
    if len(aspects) == 1:
        after[:] = 0
    else:
        # The first and the last bucket need no case of their own: beyond them, the distance to them is the smaller one.
        after -= aspect - aspects[after - 1] < aspects[after] - aspect
    return np.where(usable, after, UNUSABLE)
