"""The rows of all tables that the settings name, as `Rows`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datago_gpu.config import TableSource
from datago_gpu.config.expression import parse_expression
from datago_gpu.config.settings import RankSplit
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.order import RankShare
from datago_gpu.sources.reference import ListingDigest, Refs, SampleRef, Skipped
from datago_gpu.sources.rows import Numbers
from datago_gpu.sources.table.access import Access, AnyOrder, Forward
from datago_gpu.sources.table.columns import Roles
from datago_gpu.sources.table.located import Located
from datago_gpu.sources.table.orders import block_rows, rows_in_groups
from datago_gpu.sources.table.pushdown import filter_for
from datago_gpu.sources.table.readers import ParquetTable, WholeTable, settle
from datago_gpu.sources.table.samples import Origin, SampleMaker
from datago_gpu.units import MiB

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TableRows", "Tables"]

_MOST_PIXELS = 1 << 30
_AT_ONCE, _BYTES_AT_ONCE = 256, 8 * MiB
"""Rows that are read together, and the bytes that they may take: fewer of tables that hold bytes."""


class _Group:
    """A group of one table, with all columns that its data set has. See `access.Group`."""

    def __init__(self, table: ParquetTable | WholeTable, number: int, origin: int, constants: dict[str, Any]) -> None:
        self._table, self.number, self.origin, self._constants = table, number, origin, constants
        self.rows, self.bytes = table.counts[number], table.sizes[number]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `access.Group.batches`. A column that the table lacks is null."""
        for batch in self._table.batches(self.number, columns):
            arrays = [self._column(batch, name) for name in columns]
            yield pa.RecordBatch.from_arrays(arrays, list(columns))

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name in self._constants:
            return pa.repeat(pa.scalar(self._constants[name]), batch.num_rows)
        return batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows)


class Tables:
    """The opened tables, before rows are chosen. partitions: of each table, the columns that its folders name."""

    def __init__(
        self, located: list[Located], opened: list[ParquetTable | WholeTable], partitions: list[dict[str, Any]]
    ) -> None:
        self.located, self.opened = located, opened
        self.schema = opened[0].schema
        for name, value in partitions[0].items():
            if name not in self.schema.names:
                self.schema = self.schema.append(pa.field(name, pa.scalar(value).type))
        self.groups = [
            _Group(table, number, origin, constants)
            for origin, (table, constants) in enumerate(zip(opened, partitions, strict=True))
            for number in range(len(table.counts))
        ]
        self.in_any_order = all(table.in_any_order for table in opened)

    def check(self, columns: Sequence[str], partitions: list[dict[str, Any]]) -> None:
        """Raises ConfigError if a table lacks one of these columns."""
        for located, table, constants in zip(self.located, self.opened, partitions, strict=True):
            lacking = [name for name in columns if name not in table.schema.names and name not in constants]
            if lacking:
                raise ConfigError(
                    f"{located.shown} lacks the column {lacking[0]!r}, which {self.located[0].shown} has: all tables "
                    "of source_config.path must have it"
                )

    def passing(self, text: str) -> NDArray[np.int64]:
        """Returns the numbers of the rows that pass a filter. Reads only the filter's columns. Raises ConfigError."""
        expression, columns = filter_for(parse_expression(text), self.schema)
        possible = [set(table.groups_for(expression)) for table in self.opened] if columns else []
        found, first = [np.empty(0, np.int64)], 0
        for group in self.groups:
            if not possible or group.number in possible[group.origin]:
                found += self._passing_in(group, first, expression, columns)
            first += group.rows
        return np.concatenate(found)

    def _passing_in(self, group: _Group, first: int, expression: Any, columns: list[str]) -> Iterator[Any]:
        wanted = pa.schema([self.schema.field(name) for name in columns])
        for batch in group.batches(columns):
            numbers = pa.array(np.arange(first, first + batch.num_rows))
            table = pa.Table.from_batches([batch]).cast(wanted).append_column("", numbers)
            yield table.filter(expression).column("").to_numpy()
            first += batch.num_rows


class TableRows:
    """The rows of tables that pass the filter, in the order of the tables. See `Rows`.

    bounds: the numbers at which row groups begin, and the number of all rows. group_bytes: bytes of each row group.
    """

    def __init__(self, source: TableSource, tables: Tables, roles: Roles, origins: list[Origin]) -> None:
        self._tables, self._roles, self._origins = tables, roles, origins
        self.listed = ListingDigest(0, "")
        self._maker = SampleMaker(roles, source.parts)
        self._chosen = tables.passing(source.filter) if source.filter.strip() else None
        starts = np.cumsum([0, *(group.rows for group in tables.groups)], dtype=np.int64)
        self.bounds = starts if self._chosen is None else np.searchsorted(self._chosen, starts)
        self.group_bytes = np.array([group.bytes for group in tables.groups], np.int64)
        self.in_groups = roles.holds_bytes and not tables.in_any_order
        """Whether rows have to be read group by group."""
        self._columns = roles.read
        self._lock = threading.Lock()
        self._forward: Access | None = None
        self._any_order: Access | None = None
        if tables.in_any_order:
            self._any_order = self._in_any_order()

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def sizes(self) -> NDArray[np.int32] | None:
        """See `Rows.sizes`."""
        columns = [self._roles.height, self._roles.width]
        if not all(columns):
            return None
        found = np.zeros((int(sum(group.rows for group in self._tables.groups)), 2), np.int32)
        first = 0
        for group in self._tables.groups:
            for batch in group.batches(columns):
                for side, name in enumerate(columns):
                    found[first : first + batch.num_rows, side] = _pixels(batch.column(name))
                first += batch.num_rows
        return found if self._chosen is None else found[self._chosen]

    def block_rows(self, wanted: int) -> int:
        """Returns how many rows are mixed with each other in a shuffle: see `orders`."""
        return block_rows(self.bounds, self.group_bytes, wanted)

    def in_own_order(self, share: RankShare, seed: int, epoch: int, block: int, split: RankSplit) -> NDArray[np.int64]:
        """Returns the numbers of a rank's rows in the order in which row groups are read. block: 0 for no shuffle."""
        return rows_in_groups(self.bounds, share, seed, epoch, block=block, split=split)

    async def read(self, numbers: Numbers, *, first: int = 0, at_once: int = 0) -> Refs:
        """See `Rows.read`. at_once: rows to read together, 0 for a usual number. first: rows to read before these."""
        at_once = at_once or self._usual_window()
        done = 0
        while done < len(numbers):
            count = first if first and not done else at_once
            some = np.asarray(numbers[done : done + count], np.int64)
            samples = await call_in_thread(None, self._samples, some, numbers)
            done += count
            samples.reverse()
            while samples:
                yield samples.pop()

    def _usual_window(self) -> int:
        if not self.in_groups:
            return _AT_ONCE
        mean: int = max(1, int(self.group_bytes.sum()) // max(1, sum(group.rows for group in self._tables.groups)))
        return max(1, min(_AT_ONCE, _BYTES_AT_ONCE // mean))

    def _samples(self, numbers: NDArray[np.int64], all_numbers: Numbers) -> list[SampleRef | Skipped]:
        rows = numbers if self._chosen is None else self._chosen[numbers]
        with self._lock:  # cursors move
            access = self._access(all_numbers)
            try:
                taken, places = access.take(rows)
            except OSError as error:
                raise SourceError(f"cannot read the table any more: {error.filename or ''} {error.strerror}") from error
        samples: list[SampleRef | Skipped] = []
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            origin = self._origins[taken.origins[place]]
            if taken.problems[place]:
                where, why = origin.address, taken.problems[place]
                samples.append(Skipped(number, f"{origin.label}{number}", where, "bad-rows", why))
                continue
            row = {name: values[place] for name, values in taken.columns.items()}
            samples.append(self._maker.make(row, number, origin))
        return samples

    def _access(self, numbers: Numbers) -> Access:
        """Returns what reads these rows best. Rows without bytes are kept, to be read in any order."""
        if self._any_order:
            return self._any_order
        if not self.in_groups and not _ascends(numbers):
            self._any_order = self._settled()
            self._forward = None
            return self._any_order
        self._forward = self._forward or Forward(self._tables.groups, self._columns)
        return self._forward

    def _in_any_order(self) -> AnyOrder:
        """Returns access to tables whose rows can be read in any order as they are."""
        batches, origins = [], []
        for group in self._tables.groups:
            for batch in group.batches(self._columns):
                batches.append(batch)
                origins.append(group.origin)
        return AnyOrder(batches, origins, self._columns)

    def _settled(self) -> AnyOrder:
        """Returns access to a copy of all rows, in memory or in a temporary file."""
        origins: list[int] = []

        def batches() -> Iterator[pa.RecordBatch]:
            for group in self._tables.groups:
                for batch in group.batches(self._columns):
                    origins.append(group.origin)
                    yield batch

        schema = pa.schema([self._tables.schema.field(name) for name in self._columns])
        return AnyOrder(settle(schema, batches()).rows, origins, self._columns)


def _ascends(numbers: Numbers) -> bool:
    if isinstance(numbers, range):
        return numbers.step > 0
    return bool((np.diff(numbers) >= 0).all())


def _pixels(column: pa.Array) -> NDArray[np.int32]:
    """Returns sides in pixels; 0 for null, NaN and what is no side of a picture."""
    sides = np.nan_to_num(pc.fill_null(column.cast(pa.float64(), safe=False), 0).to_numpy(zero_copy_only=False))
    return np.where((sides > 0) & (sides < _MOST_PIXELS), sides, 0).astype(np.int32)
