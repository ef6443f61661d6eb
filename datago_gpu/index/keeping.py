"""Has units looked at, many at once, and keeps their rows in listed order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from datago_gpu.eventloop import started
from datago_gpu.feeder.refusals import Refusals
from datago_gpu.index.journal import Journal
from datago_gpu.index.survey import Survey, Task
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.reference import Skipped

__all__ = ["Keeper", "Tell", "looked_at", "without_refused"]

_ROWS_A_WRITE, _WRITE_AFTER_S = 4096, 5.0
"""Rows are kept in memory until there are so many, or for so many seconds: a process that is killed loses no more."""

Tell = Callable[[int, int], None]
"""Called now and then with the number of rows so far, and of those among them that were known before."""
Result = tuple[list[IndexRow], bool]
"""The rows of a unit, and whether they are those of an earlier index."""


class Keeper:
    """Writes rows to the journal, many at once. known: the number of rows that need not be looked at again."""

    def __init__(self, journal: Journal, tell: Tell) -> None:
        self._journal, self._tell = journal, tell
        self._units: list[list[IndexRow]] = []
        self._rows, self.known = 0, journal.rows
        self._written_at = time.monotonic()
        tell(journal.rows, self.known)

    def add(self, rows: list[IndexRow], *, known: bool) -> None:
        """Keeps the rows of a unit. Raises ConfigError if they cannot be written."""
        self._units.append(rows)
        self._rows += len(rows)
        self.known += len(rows) if known else 0
        if self._rows >= _ROWS_A_WRITE or time.monotonic() > self._written_at + _WRITE_AFTER_S:
            self.flush()

    def flush(self) -> None:
        """Writes all rows. Raises ConfigError."""
        units, self._units, self._rows = self._units, [], 0
        if units:
            self._journal.append(units)
            self._tell(self._journal.rows, self.known)
        self._written_at = time.monotonic()


async def looked_at(survey: Survey, tasks: AsyncGenerator[Task, None]) -> AsyncGenerator[Result, None]:
    """Yields the result of each unit, in their order. Looks at several units at the same time."""
    waiting: deque[asyncio.Task[list[Result]]] = deque()
    try:
        async with aclosing(_chunks(tasks, survey.chunk)) as chunks:
            async for chunk in chunks:
                waiting.append(started(_look(survey, chunk)))
                if len(waiting) >= survey.at_once:
                    for result in await waiting.popleft():
                        yield result
        while waiting:
            for result in await waiting.popleft():
                yield result
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _look(survey: Survey, tasks: list[Task]) -> list[Result]:
    rows = await survey.look(tasks)
    return [(found, bool(old) and found is old) for found, (_, old) in zip(rows, tasks, strict=True)]


async def _chunks(tasks: AsyncGenerator[Task, None], size: int) -> AsyncGenerator[list[Task], None]:
    chunk: list[Task] = []
    async with aclosing(tasks) as given:
        async for task in given:
            chunk.append(task)
            if len(chunk) >= size:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


async def without_refused(
    results: AsyncGenerator[Result, None], refusals: Refusals[None]
) -> AsyncGenerator[Result, None]:
    """Yields the same results, but holds refused samples back until it is clear that the source is not at fault.

    Raises SourceError after too many refusals in a row; then those are not among the results.
    """
    held: deque[tuple[Result, int]] = deque()
    released = 0
    async with aclosing(results) as given:
        async for result in given:
            outcomes = _outcomes(result[0])
            held.append((result, len(outcomes)))
            for outcome in outcomes:
                released += len(refusals.take(outcome))
            while held and held[0][1] <= released:
                result, used = held.popleft()
                released -= used
                yield result
    refusals.end()
    for result, _ in held:
        yield result


def _outcomes(rows: list[IndexRow]) -> list[Skipped | None]:
    """Returns what `Refusals` is told of a unit: None if a row can be used, and the last row if that one cannot."""
    outcomes: list[Skipped | None] = [None] if any(not row.reason for row in rows) else []
    last = rows[-1] if rows else None
    if last is not None and last.reason:
        index = 0 if last.id else -1
        where = last.path or last.url or ""
        outcomes.append(Skipped(index, last.id, where, last.reason, last.detail or ""))
    return outcomes or [None]
