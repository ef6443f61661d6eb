"""The order of rows in tables that hold bytes: whole row groups for each rank, mixed within blocks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datago_gpu.config.settings import RankSplit
from datago_gpu.sources.order import RankShare
from datago_gpu.sources.shuffle import SplitMix64, permutation
from datago_gpu.units import MiB

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["block_rows", "rows_in_groups"]

_MOST_BLOCK_BYTES = 256 * MiB
_WITHIN_BLOCKS = 0x7AB1E
"""Makes the draws within blocks other than those of the row groups."""


def block_rows(bounds: NDArray[np.int64], sizes: NDArray[np.int64], wanted: int) -> int:
    """Returns the rows of a block: `wanted`, or as many as take 256 MiB where rows are largest.

    bounds: the numbers at which groups begin, and the number of all rows. sizes: bytes of each group.
    """
    counts = np.diff(bounds)
    largest = float((sizes / np.maximum(counts, 1)).max(initial=1.0))
    return max(1, min(wanted, int(_MOST_BLOCK_BYTES / max(largest, 1.0))))


def rows_in_groups(
    bounds: NDArray[np.int64], share: RankShare, seed: int, epoch: int, *, block: int, split: RankSplit
) -> NDArray[np.int64]:
    """Returns the numbers of a rank's rows in their order, int64. Each rank takes rows that follow each other, so that
    it reads few row groups that others read as well.

    block: rows that are mixed; 0 for no shuffle.
    """
    total = int(bounds[-1])
    first, last = (total * rank // share.world_size for rank in (share.rank, share.rank + 1))
    if not block:
        return np.arange(first, last, dtype=np.int64)
    if split == "listed":
        own = np.clip(bounds, first, last)
        rows = _concatenate(own, permutation(len(own) - 1, seed, epoch))
    else:
        rows = _concatenate(bounds, permutation(len(bounds) - 1, seed, epoch))[first:last]
    draws = SplitMix64(seed, epoch, _WITHIN_BLOCKS).numbers(len(rows))
    mixed: NDArray[np.int64] = rows[np.lexsort((draws, np.arange(len(rows)) // block))]
    return mixed


def _concatenate(bounds: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the rows of these groups, one group after the other."""
    counts = np.diff(bounds)[groups]
    starts = np.cumsum(counts) - counts
    rows: NDArray[np.int64] = np.arange(int(counts.sum())) + np.repeat(bounds[:-1][groups] - starts, counts)
    return rows
