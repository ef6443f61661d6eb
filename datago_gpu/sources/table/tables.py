"""The opened tables of a data set: their groups of rows, their common columns, the rows that pass a filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datago_gpu.config.expression import parse_expression
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.table.located import Located
from datago_gpu.sources.table.pushdown import filter_for, may_keep_nan
from datago_gpu.sources.table.readers import ParquetTable
from datago_gpu.sources.table.settled import WholeTable
from datago_gpu.sources.table.soundness import damage_of, is_damage, words_of
from datago_gpu.sources.table.values import without_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Group", "Tables"]

MOST_PIXELS = 1 << 30


class Group:
    """A group of one table, with all columns that its data set has.

    rows, bytes: their number, and their size decompressed. origin: the number of the table. number: of the group in it.
    """

    def __init__(self, table: ParquetTable | WholeTable, number: int, origin: int, constants: dict[str, Any]) -> None:
        self._table, self.number, self.origin, self._constants = table, number, origin, constants
        self.rows, self.bytes = table.counts[number], table.sizes[number]

    def batches(self, columns: Sequence[str], *, check: bool = True) -> Iterator[pa.RecordBatch]:
        """Yields the rows, some at a time, always the same ones together. A column that the table lacks is null.

        check: look for damage that pyarrow would not notice. Raises OSError, pa.ArrowException.
        """
        for batch in self._table.batches(self.number, columns):
            if check and self._table.in_any_order and (problem := damage_of(batch)):
                raise pa.ArrowInvalid(problem)
            arrays = [self._column(batch, name) for name in columns]
            yield pa.RecordBatch.from_arrays(arrays, list(columns))

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name in self._constants:
            return pa.repeat(pa.scalar(self._constants[name]), batch.num_rows)
        if name not in batch.schema.names:
            return pa.nulls(batch.num_rows)
        column = batch.column(name)
        plain = without_view(column.type)
        return column if plain == column.type else column.cast(plain)


class Tables:
    """The opened tables, before rows are chosen. partitions: of each table, the columns that its folders name."""

    def __init__(
        self, located: list[Located], opened: list[ParquetTable | WholeTable], partitions: list[dict[str, Any]]
    ) -> None:
        self.located, self.opened, self._partitions = located, opened, partitions
        given = opened[0].schema
        self.schema = pa.schema([each.with_type(without_view(each.type)) for each in given], metadata=given.metadata)
        for name, value in partitions[0].items():
            if name not in self.schema.names:
                self.schema = self.schema.append(pa.field(name, pa.scalar(value).type))
        self.groups = [
            Group(table, number, origin, constants)
            for origin, (table, constants) in enumerate(zip(opened, partitions, strict=True))
            for number in range(len(table.counts))
        ]
        self.in_any_order = all(table.in_any_order for table in opened)

    def check(self, columns: Sequence[str]) -> None:
        """Raises ConfigError if a table lacks one of these columns."""
        for located, table, constants in zip(self.located, self.opened, self._partitions, strict=True):
            lacking = [name for name in columns if name not in table.schema.names and name not in constants]
            if lacking:
                raise ConfigError(
                    f"{located.shown} lacks the column {lacking[0]!r}, which {self.located[0].shown} has: all tables "
                    "of source_config.path must have it"
                )

    def passing(self, text: str, setting: str = "filter") -> NDArray[np.int64]:
        """Returns the numbers of the rows that pass a filter. Reads only the filter's columns. Raises ConfigError.

        setting: the one that holds the text, for messages.
        """
        tree = parse_expression(text)
        expression, columns = filter_for(tree, self.schema, setting)
        wanted = pa.schema([self.schema.field(name) for name in columns])
        possible = self._possible(expression, wanted, all_groups=may_keep_nan(tree, self.schema))
        found, first = [np.empty(0, np.int64)], 0
        for group in self.groups:
            if group.number in possible[group.origin]:
                try:
                    found += self._passing_in(group, first, expression, wanted)
                except (pa.ArrowException, OSError) as error:
                    shown = self.located[group.origin].shown
                    raise SourceError(
                        f"cannot filter the rows of {shown}: {words_of(error)}; check source_config.path"
                    ) from error
            first += group.rows
        return np.concatenate(found)

    def _possible(self, expression: Any, wanted: pa.Schema, *, all_groups: bool) -> list[set[int]]:
        """Returns, of each table, the groups that may hold rows which pass. wanted: the filter's columns."""
        return [
            set(range(len(table.counts)))
            if all_groups or not constants.keys().isdisjoint(wanted.names)
            else set(table.groups_for(expression, wanted))
            for table, constants in zip(self.opened, self._partitions, strict=True)
        ]

    def _passing_in(self, group: Group, first: int, expression: Any, wanted: pa.Schema) -> Iterator[Any]:
        for batch in group.batches(wanted.names):
            numbers = pa.array(np.arange(first, first + batch.num_rows))
            table = pa.Table.from_batches([batch]).cast(wanted).append_column("", numbers)
            yield table.filter(expression).column("").to_numpy()
            first += batch.num_rows

    def sizes(self, height: str, width: str) -> NDArray[np.int32]:
        """Returns the sizes of all pictures by these columns, (N, 2), 0 where unknown. Raises SourceError."""
        found = np.zeros((sum(group.rows for group in self.groups), 2), np.int32)
        first = 0
        for group in self.groups:
            at = first
            try:
                for batch in group.batches([height, width]):
                    for side in range(2):
                        found[at : at + batch.num_rows, side] = _pixels(batch.column(side))
                    at += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                if not is_damage(error):  # damaged rows are skipped where they are read
                    raise self.unread("the sizes", group, error) from error
            first += group.rows
        return found

    def unread(self, what: str, group: Group, error: Exception) -> SourceError:
        """Returns the error for values that cannot be read, although the file is not damaged. what: these values."""
        return SourceError(f"cannot read {what} of {self.located[group.origin].shown}: {words_of(error)}")


def _pixels(column: pa.Array) -> NDArray[np.int32]:
    """Returns sides in pixels; 0 for null, NaN and what is no side of a picture."""
    sides = np.nan_to_num(pc.fill_null(column.cast(pa.float64(), safe=False), 0).to_numpy(zero_copy_only=False))
    return np.where((sides > 0) & (sides < MOST_PIXELS), sides, 0).astype(np.int32)
