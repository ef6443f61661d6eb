"""Groups rows into global batches one after the other, where no listing is in memory. See `global_batches.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from datago_gpu.imaging.geometry import Size
from datago_gpu.plan.taken import MoreTaken, Taken, Together, rows_together

__all__ = ["Planned", "StreamPlanner"]

T = TypeVar("T")


class Planned(NamedTuple, Generic[T]):
    """A global batch."""

    bucket: Size
    rows: list[T]
    """The distinct rows: the row at place p of the batch is rows[p % len(rows)], and real if p < len(rows)."""


class _Row(NamedTuple, Generic[T]):
    position: int
    row: T
    bucket: Size


class _Open(Generic[T]):
    """The batches that are not complete, one per bucket."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self._rows: dict[Size, list[_Row[T]]] = {}

    def add(self, row: _Row[T]) -> Planned[T] | None:
        """Adds a row. Returns the batch that the row completes."""
        rows = self._rows.setdefault(row.bucket, [])
        rows.append(row)
        return self._take(row.bucket) if len(rows) == rows_together(self._together, row.bucket) else None

    def flush(self) -> Iterator[Planned[T]]:
        """Yields the batches that are not complete, in the order of their first rows."""
        for bucket in sorted(self._rows, key=lambda bucket: self._rows[bucket][0].position):
            yield self._take(bucket)

    def take_all(self) -> list[_Row[T]]:
        """Returns the rows of all batches, in their order."""
        held = [row for rows in self._rows.values() for row in rows]
        self._rows.clear()
        return sorted(held, key=lambda row: row.position)

    def _take(self, bucket: Size) -> Planned[T]:
        return Planned(bucket, [each.row for each in self._rows.pop(bucket)])


class _Leaving(Generic[T]):
    """Leaves out the rows of the first `steps` batches, and passes the other rows on in order."""

    def __init__(self, together: Together, steps: int) -> None:
        self._open, self.steps = _Open[T](together), steps
        """How many of these batches are still to come."""

    def pass_on(self, rows: list[_Row[T]]) -> list[_Row[T]]:
        """Takes the next rows. Returns the rows that are now known to be in none of these batches."""
        for at, row in enumerate(rows):
            if not self.steps:
                return self._open.take_all() + rows[at:]
            self.steps -= self._open.add(row) is not None
        return [] if self.steps else self._open.take_all()

    def end(self) -> list[_Row[T]]:
        """Returns the rows that are left at the end. Raises MoreTaken."""
        flushed = self._open.flush()
        for _ in range(self.steps):
            if next(flushed, None) is None:
                raise MoreTaken
        return self._open.take_all()


class StreamPlanner(Generic[T]):
    """Returns the global batches of an epoch that follow those taken. `chain.plan_rest` does so for whole columns.

    taken: in the order in which they were taken. The last one has this run's G, perhaps with 0 steps.
    """

    def __init__(self, taken: Sequence[Taken], *, drop_last: bool = False) -> None:
        *earlier, (together, self._skipped) = taken
        self._leaving = [_Leaving[T](each, steps) for each, steps in earlier]
        self._open, self._drop_last = _Open[T](together), drop_last
        self._position = 0
        self.left_out: list[T] = []
        """After `end`: the rows in batches that are not complete, if `drop_last` is true."""

    @property
    def caught_up(self) -> bool:
        """Returns whether all rows of the batches taken have been added."""
        return not self._skipped and not any(leaving.steps for leaving in self._leaving)

    def add(self, row: T, bucket: Size) -> Iterator[Planned[T]]:
        """Adds the next row. Yields the batches that can be sent now."""
        rows = [_Row(self._position, row, bucket)]
        self._position += 1
        for leaving in self._leaving:
            rows = leaving.pass_on(rows)
        yield from self._group(rows)

    def end(self) -> Iterator[Planned[T]]:
        """Ends the epoch and yields the remaining batches. Raises MoreTaken."""
        rows: list[_Row[T]] = []
        for leaving in self._leaving:
            rows = leaving.pass_on(rows) + leaving.end()
        yield from self._group(rows)
        for batch in self._open.flush():
            for sent in self._unless_taken(batch):
                if self._drop_last:
                    self.left_out += sent.rows
                else:
                    yield sent
        if self._skipped:
            raise MoreTaken

    def _group(self, rows: list[_Row[T]]) -> Iterator[Planned[T]]:
        for row in rows:
            if batch := self._open.add(row):
                yield from self._unless_taken(batch)

    def _unless_taken(self, batch: Planned[T]) -> Iterator[Planned[T]]:
        if self._skipped:
            self._skipped -= 1
        else:
            yield batch
