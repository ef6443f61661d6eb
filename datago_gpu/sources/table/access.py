"""Reads rows by their numbers: from memory in any order, from Parquet files row group by row group."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from datago_gpu.sources.table.soundness import damage_of, is_damage, words_of
from datago_gpu.sources.table.tables import Group
from datago_gpu.sources.table.values import python_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Access", "AnyOrder", "Forward", "Origins", "Taken"]

Origins = list[tuple[int, str]]
"""Of each batch, the number of its table, and why its rows cannot be read; "" if they can."""

_CURSORS = 4
"""Row groups that are kept open. A stream reads one after the other; two may meet in one window."""


class Taken:
    """Holds the values of some rows, in the order in which they were asked for."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in columns}
        self.origins: list[int] = []
        """Of each row, the number of its table."""
        self.problems: list[str] = []
        """Of each row, why it cannot be read; "" if it could be read."""

    def add(self, batch: pa.RecordBatch, origin: int) -> None:
        """Adds the rows of a batch."""
        for name, values in self.columns.items():
            values += python_values(batch.column(name))
        self.origins += [origin] * batch.num_rows
        self.problems += [""] * batch.num_rows

    def add_unreadable(self, count: int, origin: int, problem: str) -> None:
        """Adds rows that cannot be read."""
        for values in self.columns.values():
            values += [None] * count
        self.origins += [origin] * count
        self.problems += [problem] * count


class Access(Protocol):
    """Reads rows by their numbers."""

    def take(self, numbers: NDArray[np.int64]) -> tuple[Taken, NDArray[np.int64]]:
        """Returns these rows, and where in the result each of them stands. Raises OSError if a file is gone."""
        ...


def _runs(starts: NDArray[np.int64], numbers: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yields each group that sorted numbers fall into, with the first and the last of its numbers + 1."""
    groups = np.searchsorted(starts, numbers, side="right") - 1
    changes = np.flatnonzero(np.diff(groups)) + 1
    begins, ends = [0, *changes.tolist()], [*changes.tolist(), len(numbers)]
    for begin, end in zip(begins, ends, strict=True):
        if end > begin:
            yield int(groups[begin]), begin, end


def _select(batch: pa.RecordBatch, rows: NDArray[np.int64]) -> pa.RecordBatch:
    if (np.diff(rows) == 1).all():
        return batch.slice(int(rows[0]), len(rows))
    return batch.take(pa.array(rows))


def _starts_of(counts: Sequence[int]) -> NDArray[np.int64]:
    """Returns the number of the first row of each group."""
    return np.cumsum([0, *counts[:-1]], dtype=np.int64)


def _sorted(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the numbers in their order, and where each of the given ones stands in it."""
    order = np.argsort(numbers, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return numbers[order], places


class AnyOrder:
    """Rows in memory, or in mapped files: reading one costs the same wherever it stands."""

    def __init__(self, batches: Sequence[pa.RecordBatch], origins: Origins, columns: Sequence[str]) -> None:
        self._columns, self._origins = columns, origins
        self._batches = [batch.select(list(columns)) for batch in batches]
        self._starts = _starts_of([batch.num_rows for batch in batches])
        self._checked = [False] * len(batches)

    def _origin(self, number: int) -> tuple[int, str]:
        """Returns the table of a batch, and why its rows cannot be read. Checks a batch when it is read first."""
        origin, problem = self._origins[number]
        if not problem and not self._checked[number]:
            problem, self._checked[number] = damage_of(self._batches[number]), True
            self._origins[number] = origin, problem
        return origin, problem

    def take(self, numbers: NDArray[np.int64]) -> tuple[Taken, NDArray[np.int64]]:
        """See `Access.take`."""
        wanted, places = _sorted(numbers)
        taken = Taken(self._columns)
        pieces: list[pa.RecordBatch] = []
        last = -1
        for number, begin, end in _runs(self._starts, wanted):
            origin, problem = self._origin(number)
            if pieces and (problem or origin != last or pieces[0].schema != self._batches[number].schema):
                taken.add(pa.concat_batches(pieces), last)
                pieces.clear()
            if problem:
                taken.add_unreadable(end - begin, origin, problem)
            else:
                pieces.append(_select(self._batches[number], wanted[begin:end] - self._starts[number]))
            last = origin
        if pieces:  # together, since each conversion to Python values takes 5 us for each column
            taken.add(pa.concat_batches(pieces), last)
        return taken, places


class Forward:
    """Rows in groups that are read from their beginning. Rows that follow each other are read once."""

    def __init__(self, groups: Sequence[Group], columns: Sequence[str]) -> None:
        self._groups, self._columns = groups, columns
        self._starts = _starts_of([group.rows for group in groups])
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()

    def take(self, numbers: NDArray[np.int64]) -> tuple[Taken, NDArray[np.int64]]:
        """See `Access.take`."""
        wanted, places = _sorted(numbers)
        taken = Taken(self._columns)
        try:
            for number, begin, end in _runs(self._starts, wanted):
                rows = wanted[begin:end] - self._starts[number]
                self._cursor(number, int(rows[0])).read(rows, taken)
        except OSError:
            self._cursors.clear()  # another try begins anew
            raise
        return taken, places

    def _cursor(self, number: int, row: int) -> _Cursor:
        cursor = self._cursors.pop(number, None)
        if cursor is None or cursor.begin > row:
            cursor = _Cursor(self._groups[number], self._columns)
        self._cursors[number] = cursor
        while len(self._cursors) > _CURSORS:
            self._cursors.popitem(last=False)
        return cursor


class _Cursor:
    """Reads one group. begin: the first row that can still be read."""

    def __init__(self, group: Group, columns: Sequence[str]) -> None:
        self._group = group
        self._batches = group.batches(columns)
        self._batch: pa.RecordBatch | None = None
        self.begin = self._end = 0
        self._problem = ""

    def read(self, rows: NDArray[np.int64], taken: Taken) -> None:
        """Adds these rows, whose numbers ascend. Raises OSError if the file is gone."""
        while len(rows):
            while self._end <= rows[0] and not self._problem:
                self._advance()
            if self._problem and self._end <= rows[0]:
                taken.add_unreadable(len(rows), self._group.origin, self._problem)
                return
            assert self._batch is not None
            count = int(np.searchsorted(rows, self._end))
            taken.add(_select(self._batch, rows[:count] - self.begin), self._group.origin)
            rows = rows[count:]

    def _advance(self) -> None:
        try:
            batch = next(self._batches, None)
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            self._problem = words_of(error)
            return
        if batch is None:
            self._problem = "the row group ends before its last row"
            return
        self._batch, self.begin, self._end = batch, self._end, self._end + batch.num_rows
