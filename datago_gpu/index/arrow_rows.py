"""Converts rows of an index to Arrow's columns, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from datago_gpu.sources.index_form import IndexPart, IndexRow, arrow

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["batch_of", "rows_of"]

_PART_FIELDS = IndexPart.__struct_fields__


def batch_of(rows: Sequence[IndexRow], schema: pa.Schema) -> pa.RecordBatch:
    """Returns the rows as one record batch."""
    pa = arrow()
    columns = []
    for field in schema:
        values: list[Any] = [getattr(row, field.name) for row in rows]
        if field.name == "parts":
            values = [[structs.asdict(part) for part in parts] for parts in values]
        columns.append(pa.array(values, field.type))
    return pa.record_batch(columns, schema=schema)


def rows_of(batch: pa.RecordBatch) -> Iterator[IndexRow]:
    """Yields the rows of a record batch with the columns of an index."""
    columns = [column.to_pylist() for column in batch.columns]
    parts = batch.schema.get_field_index("parts")
    columns[parts] = [[IndexPart(*map(part.get, _PART_FIELDS)) for part in found] for found in columns[parts]]
    return map(IndexRow, *columns)
