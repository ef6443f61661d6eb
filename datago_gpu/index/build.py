"""Makes an index: lists the units of a source, looks at those that are not known yet, and writes all rows in order."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, closing
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from datago_gpu import eventloop
from datago_gpu.config import LoaderConfig
from datago_gpu.config.ranks import cpu_share
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.refusals import Refusals
from datago_gpu.index.expiry import earliest_expiry
from datago_gpu.index.journal import Journal, write_index
from datago_gpu.index.keeping import Keeper, Tell, looked_at, without_refused
from datago_gpu.index.known import KnownRows, Replay
from datago_gpu.index.open_survey import open_survey, source_text
from datago_gpu.index.survey import Survey, Task, Unit
from datago_gpu.sources.index_form import CLASSES, ROOT, SOURCE, arrow, index_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Summary", "build_index", "part_of"]


class Summary(msgspec.Struct, frozen=True):
    """What a finished index holds. known: rows that were known before. reasons: rows that cannot be used, by reason.

    described: usable rows that have attributes, such as a caption.
    expires: when the first of its addresses expires; None if no address says so.
    """

    rows: int
    usable: int
    described: int
    known: int
    reasons: dict[str, int]
    seconds: float
    bytes: int
    expires: datetime | None


def build_index(
    config: LoaderConfig,
    out: Path,
    *,
    update: bool = False,
    readers: int | None = None,
    tell: Tell = lambda _rows, _known: None,
) -> Summary:
    """Writes the index of a source to `out`.

    An interrupted run leaves a file with the extension .part beside `out`; the next run goes on from there. update: an
    index that is there is brought up to date; without it, ConfigError is raised. readers: number of processes that
    read local files; 0: one thread of this process; None: one for each CPU. Raises DatagoError.
    """
    arrow()  # to say at once if it is missing
    if out.exists() and not update and not part_of(out).exists():
        raise ConfigError(f"{str(out)!r} exists: --update brings it up to date; or remove it, or choose another --out")
    begun = time.monotonic()
    build = _Build(config.resolve(), out, tell, cpu_share() if readers is None else readers)
    eventloop.run(build.run())
    return build.summary(time.monotonic() - begun)


def part_of(out: Path) -> Path:
    """Returns the path of the file that an interrupted run leaves."""
    return out.with_name(f"{out.name}.part")


class _Build:
    """One run."""

    def __init__(self, config: LoaderConfig, out: Path, tell: Tell, readers: int) -> None:
        self._config, self._out, self._tell, self._readers = config, out, tell, readers
        self._earlier = out.with_name(f"{out.name}.earlier")
        """The rows of interrupted runs that no longer fit the listing."""
        self._known = self._rows = self._described = 0
        self._expires: datetime | None = None
        self._reasons: Counter[str] = Counter()

    def summary(self, seconds: float) -> Summary:
        """Returns the result of a finished run."""
        usable = self._rows - self._reasons.total()
        size = os.stat(self._out).st_size
        reasons = dict(self._reasons.most_common())
        return Summary(self._rows, usable, self._described, self._known, reasons, seconds, size, self._expires)

    async def run(self) -> None:
        """Makes the index."""
        async with open_survey(self._config, self._readers) as survey:
            classes = await survey.classes()
            named = {CLASSES: msgspec.json.encode(classes).decode()} if classes else {}
            schema = index_schema({ROOT: survey.root, SOURCE: source_text(self._config), **named})
            with closing(Journal(part_of(self._out), schema)) as journal:
                await self._fill(survey, journal, schema)
                write_index(self._out, schema, self._counted(journal.read()))
                self._earlier.unlink(missing_ok=True)
                journal.remove()

    async def _fill(self, survey: Survey, journal: Journal, schema: pa.Schema) -> None:
        """Writes the rows that the journal lacks."""
        async with aclosing(survey.units()) as units:
            first = await self._replay(survey, units, journal)
            earlier = [KnownRows(path, schema, survey.key) for path in (self._earlier, self._out) if path.exists()]
            keeper = Keeper(journal, self._tell)
            refusals: Refusals[None] = Refusals(self._config.max_refused_in_a_row, "The same command goes on with them")
            try:
                async with (
                    aclosing(_tasks(first, units, earlier)) as tasks,
                    aclosing(looked_at(survey, tasks)) as results,
                    aclosing(without_refused(results, refusals)) as judged,
                ):
                    async for rows, known in judged:
                        keeper.add(rows, known=known)
            finally:
                keeper.flush()
                self._known = keeper.known

    async def _replay(self, survey: Survey, units: AsyncIterator[Unit], journal: Journal) -> Unit | None:
        """Passes the units of an interrupted run. Returns the first other unit.

        If the listing has changed since, the rows behind that place become those of an earlier index.
        """
        replay, first = Replay(journal.units(), survey.key), None
        while (unit := await anext(units, None)) is not None:  # the caller goes on with the rest of them
            if not replay.take(unit.key):
                first = unit
                break
        if not replay.is_at_end:
            self._set_aside(journal, replay.taken)
        return first

    def _set_aside(self, journal: Journal, kept: int) -> None:
        """Moves the rows of the journal behind the first `kept` ones to the file of earlier rows."""
        rest = _behind(journal.read(), kept)
        if self._earlier.exists():
            pa = arrow()
            before = pa.ipc.open_file(pa.memory_map(str(self._earlier)))
            rest = chain(rest, (before.get_batch(number) for number in range(before.num_record_batches)))
        write_index(self._earlier, journal.schema, rest)
        journal.cut(kept)

    def _counted(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yields the same batches, and counts their rows."""
        for batch in batches:
            self._rows += batch.num_rows
            self._reasons.update(reason for reason in batch.column("reason").to_pylist() if reason)
            usable = batch.filter(batch.column("reason").is_null())
            self._described += usable.num_rows - usable.column("attributes").null_count
            found = earliest_expiry(batch.column("url").to_pylist())
            self._expires = min(filter(None, (self._expires, found)), default=None)
            yield batch


async def _tasks(
    first: Unit | None, units: AsyncGenerator[Unit, None], earlier: list[KnownRows]
) -> AsyncGenerator[Task, None]:
    """Yields each unit, from `first` on, with its rows in the earlier indexes.

    A unit that could not be used gets no rows, so that the unit is looked at again.
    """

    def task(unit: Unit) -> Task:
        rows = next(filter(None, (known.take(unit.key) for known in earlier)), [])
        lost = rows and rows[-1].reason and (len(rows) == 1 or not rows[-1].id)
        return unit, [] if lost else rows

    if first is not None:
        yield task(first)
        async with aclosing(units) as rest:
            async for unit in rest:
                yield task(unit)


def _behind(batches: Iterator[pa.RecordBatch], count: int) -> Iterator[pa.RecordBatch]:
    """Yields the rows behind the first `count` ones."""
    for batch in batches:
        if count < batch.num_rows:
            yield batch.slice(count)
        count = max(0, count - batch.num_rows)
