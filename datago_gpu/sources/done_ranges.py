"""Knows which samples of an epoch are done, by their numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from sys import maxsize

__all__ = ["DoneRanges"]


class DoneRanges:
    """Holds the numbers of samples that are done, as ranges [first, last]."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            elif first <= last:
                self._firsts.append(first)
                self._lasts.append(last)

    def cover(self, first: int, last: int = maxsize) -> bool:
        """Returns whether all numbers from `first` to `last` are done; an empty range is."""
        place = bisect_right(self._firsts, first) - 1
        return last < first or (place >= 0 and self._lasts[place] >= last)
