"""Decides by the setting `where` which rows of tables pass: with pyarrow, or for an index by its samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from datago_gpu.errors import SourceError
from datago_gpu.sources.attributes import check_attributes
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.table.soundness import is_damage
from datago_gpu.sources.table.values import python_values
from datago_gpu.sources.where import Where

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datago_gpu.sources.table.tables import Tables

__all__ = ["passing_rows"]

_COLUMNS = ["id", "width", "height", "source", "tags", "attributes", "label"]
"""The columns of an index that `where` can name, or that hold what it names."""


def passing_rows(tables: Tables, text: str, *, is_index: bool) -> NDArray[np.bool_]:
    """Returns for each row of all tables whether it passes, (N,). Raises ConfigError, SourceError.

    is_index: whether the tables are an index, whose attributes are JSON.
    """
    if is_index:
        return _passing_of_index(tables, text)
    passing = np.zeros(sum(group.rows for group in tables.groups), np.bool_)
    passing[tables.passing(text, "where")] = True
    if len(passing) and not passing.any():
        raise SourceError(f"source_config.where ({text}) leaves out all of the {len(passing):,} rows: loosen it")
    return passing


def _passing_of_index(tables: Tables, text: str) -> NDArray[np.bool_]:
    where = Where(text)
    passing = np.ones(sum(group.rows for group in tables.groups), np.bool_)
    first = 0
    for group in tables.groups:
        at = first
        try:
            for batch in group.batches(_COLUMNS):
                for row in _rows_of(batch):
                    passing[at] = where.passes(_sample_of(row))
                    at += 1
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):  # damaged rows are skipped where they are read
                raise tables.unread("the columns for source_config.where", group, error) from error
        first += group.rows
    where.check()
    return passing


def _rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = [python_values(batch.column(at)) for at in range(len(_COLUMNS))]
    return (dict(zip(_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True))


def _sample_of(row: dict[str, Any]) -> SampleRef:
    text, _ = check_attributes((row["attributes"] or "{}").encode("utf-8", "surrogatepass"))
    info = SampleInfo(row["id"] or "", row["source"] or "", text, row["tags"] or [], label=row["label"])
    return SampleRef(0, info, size=(row["height"] or 0, row["width"] or 0))
