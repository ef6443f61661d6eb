"""Turns cells of Arrow columns into plain Python values, whatever is in them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["plain_type", "python_values", "without_view"]


def python_values(column: pa.Array) -> list[Any]:
    """Returns the values of a column. Text that is not UTF-8 has surrogates in place of its odd bytes, as in paths.

    Times have at most microseconds: Python's own have no more.
    """
    wanted = plain_type(column.type)
    try:
        if wanted != column.type:
            column = column.cast(wanted, safe=False)
        return column.to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, ValueError, OverflowError, KeyError):
        return [_value(column[number]) for number in range(len(column))]


def plain_type(given: pa.DataType) -> pa.DataType:
    """Returns the type without dictionaries, views and nanoseconds."""
    if pa.types.is_dictionary(given):
        return plain_type(given.value_type)
    if pa.types.is_string_view(given) or pa.types.is_binary_view(given):
        return without_view(given)
    if pa.types.is_timestamp(given) and given.unit == "ns":
        return pa.timestamp("us", given.tz)
    if pa.types.is_duration(given) and given.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(given) and given.unit == "ns":
        return pa.time64("us")
    if pa.types.is_struct(given):
        fields = [given.field(number) for number in range(given.num_fields)]
        return pa.struct([field.with_type(plain_type(field.type)) for field in fields])
    if pa.types.is_list(given):
        return pa.list_(plain_type(given.value_type))
    if pa.types.is_large_list(given):
        return pa.large_list(plain_type(given.value_type))
    return given


def without_view(given: pa.DataType) -> pa.DataType:
    """Returns a type with the same values that is no view: pyarrow cannot select rows of views."""
    if pa.types.is_string_view(given):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(given) else given


def _value(cell: pa.Scalar) -> Any:
    """Returns one value, where the column as a whole cannot be turned into Python values."""
    if pa.types.is_struct(cell.type) and cell.is_valid:
        return {name: _value(value) for name, value in cell.items()}
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        try:
            return cell.cast(pa.binary()).as_py().decode("utf-8", "surrogateescape")
        except pa.ArrowException:  # a list of texts
            return None
    except (pa.ArrowException, ValueError, OverflowError, KeyError):
        try:
            return cell.cast(pa.string()).as_py()  # such as times beyond the year 9999, or of an unknown zone
        except pa.ArrowException:
            return None
