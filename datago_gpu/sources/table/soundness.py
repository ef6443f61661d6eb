"""Checks that reading Arrow data of a damaged file does not leave its memory. pyarrow itself trusts what it maps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

__all__ = ["damage_of", "is_damage", "words_of"]

_FLAT = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null, pa.types.is_temporal),
    *(pa.types.is_decimal, pa.types.is_fixed_size_binary),
)
"""Types whose values lie at places that follow from their numbers: only the lengths of the buffers need a check."""
_LONGEST_WORDS = 200


def damage_of(batch: pa.RecordBatch) -> str:
    """Returns what is wrong with a batch; "" if nothing is. Reads no values, only where they lie."""
    try:
        for column in batch.columns:
            column.validate()
            _check(column)
    except (pa.ArrowException, ValueError, OSError) as error:
        return words_of(error)
    return ""


def is_damage(error: Exception) -> bool:
    """Returns whether the content of a file is to blame. pyarrow reports that as an OSError too, but without errno."""
    return not isinstance(error, OSError) or error.errno is None


def words_of(error: Exception) -> str:
    """Returns the first line of what pyarrow says, for a message."""
    return str(error).partition("\n")[0][:_LONGEST_WORDS] or type(error).__name__


def _check(column: pa.Array) -> None:
    """Raises ValueError, pa.ArrowException if offsets lead out of the buffers."""
    kind = column.type
    if any(is_kind(kind) for is_kind in _FLAT):
        return
    if pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            _check(column.field(number))
        return
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) or pa.types.is_large_list(kind)
    if wide or pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_list(kind) or pa.types.is_map(kind):
        _check_offsets(column, np.dtype(np.int64 if wide else np.int32))
        if pa.types.is_nested(kind):
            _check(column.values)
        return
    column.validate(full=True)  # rarer types: views, dictionaries, unions


def _check_offsets(column: pa.Array, kind: np.dtype[np.signedinteger]) -> None:
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return
    offsets = np.frombuffer(buffer, kind, len(column) + 1, column.offset * kind.itemsize)
    if offsets[0] < 0 or (np.diff(offsets) < 0).any():
        raise ValueError("the offsets of a column are damaged")
