"""Finds the classes of tables: their names in the order of the labels, and the labels of rows."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from datago_gpu.config import TableSource
from datago_gpu.errors import ConfigError
from datago_gpu.sources.index_form import CLASSES
from datago_gpu.sources.table.columns import Roles
from datago_gpu.sources.table.soundness import is_damage
from datago_gpu.sources.table.tables import Tables
from datago_gpu.sources.table.values import plain_type, python_values

__all__ = ["class_names"]

_MOST_CLASSES = 100_000
_HUGGING_FACE = b"huggingface"
"""Key of the schema's metadata in which Hugging Face datasets describe the columns."""


def class_names(source: TableSource, tables: Tables, roles: Roles) -> list[str]:
    """Returns the names of the classes; none if the labels are only numbers, or if there are no labels.

    They are those of the settings, of the tables' metadata, or the sorted values of a column of texts: of all rows,
    whatever passes a filter. Raises ConfigError, SourceError.
    """
    if source.class_names or not (roles.label or roles.is_index):
        return source.class_names
    if roles.is_index:
        return [] if roles.label else _common(tables, [_of_index(table.schema) for table in tables.opened])
    named = _common(tables, [_of_features(table.schema, roles.label) for table in tables.opened])
    if named:
        return named
    is_text = _is_text(plain_type(tables.schema.field(roles.label).type))
    return _distinct(tables, roles.label) if is_text else []


def _common(tables: Tables, given: list[list[str]]) -> list[str]:
    """Returns the names that all tables have. Raises ConfigError if two tables have different ones."""
    for located, names in zip(tables.located, given, strict=True):
        if names != given[0]:
            raise ConfigError(
                f"{located.shown} has other classes than {tables.located[0].shown}, so that their labels differ: set "
                "source_config.classes, or load them one by one"
            )
    return given[0]


def _of_index(schema: pa.Schema) -> list[str]:
    return _texts((schema.metadata or {}).get(CLASSES.encode(), b"[]"))


def _of_features(schema: pa.Schema, column: str) -> list[str]:
    """Returns the names of a `ClassLabel` of Hugging Face; none if the column is no such one."""
    try:
        metadata = msgspec.json.decode((schema.metadata or {}).get(_HUGGING_FACE, b"{}"))
        feature = metadata["info"]["features"][column]
        return list(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else []
    except (msgspec.MsgspecError, KeyError, TypeError):
        return []


def _texts(text: bytes) -> list[str]:
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.MsgspecError:
        return []


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _distinct(tables: Tables, column: str) -> list[str]:
    found = set[str]()
    for group in tables.groups:
        try:
            for batch in group.batches([column]):
                found.update(_values(batch.column(0)))
                if len(found) > _MOST_CLASSES:
                    raise ConfigError(
                        f"the column {column!r} (label) has more than {_MOST_CLASSES:,} different texts: set "
                        "source_config.label to a column of classes, or set classes"
                    )
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise tables.unread("the classes", group, error) from error
    return sorted(found)


def _values(column: pa.Array) -> Iterable[str]:
    """Returns the different texts of a column, without nulls and without empty texts."""
    return filter(None, python_values(pc.unique(column)))
