"""Turns filter expressions into pyarrow's own, for the columns of one table."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from datago_gpu.config.expression_tree import (
    COMPARE,
    And,
    Column,
    Comparison,
    Constant,
    Contains,
    Expression,
    IsNull,
    Member,
    Not,
    Or,
    columns_in,
)
from datago_gpu.errors import ConfigError

__all__ = ["filter_for", "may_keep_nan"]

_Kind = Literal["number", "text", "truth", "time", "other"]


def filter_for(expression: Expression, schema: pa.Schema, setting: str = "filter") -> tuple[pc.Expression, list[str]]:
    """Returns pyarrow's expression, and the columns that it reads. Raises ConfigError, which names the column.

    setting: the setting of source_config that has the expression, for messages.
    """
    names = list(dict.fromkeys(column.name for column in columns_in(expression)))
    for column in columns_in(expression):
        if schema.names.count(column.name) != 1:
            place = f" (character {column.place})" if column.place else ""
            why = "has more than once" if column.name in schema.names else "lacks"
            raise ConfigError(
                f"source_config.{setting} names the column {column.name!r}{place}, which the table {why}; "
                f"its columns are {', '.join(schema.names)}"
            )
    return _Pushdown(schema, setting).convert(expression), names


def may_keep_nan(expression: Expression, schema: pa.Schema) -> bool:
    """Returns whether rows with NaN may pass: the statistics of a Parquet file leave NaN out, so they cannot decide."""
    match expression:
        case And(parts) | Or(parts):
            return any(may_keep_nan(part, schema) for part in parts)
        case Not() | Comparison(operator="!="):
            return any(pa.types.is_floating(schema.field(column.name).type) for column in columns_in(expression))
    return False


class _Pushdown:
    def __init__(self, schema: pa.Schema, setting: str) -> None:
        self._schema, self._setting = schema, setting

    def convert(self, expression: Expression) -> pc.Expression:
        match expression:
            case And(parts):
                return reduce(and_, map(self.convert, parts))
            case Or(parts):
                return reduce(or_, map(self.convert, parts))
            case Not(inner):
                return ~self.convert(inner)
            case IsNull(column):
                return self._field(column).is_null()
            case Member(column, values):
                return self._member(column, values)
            case Contains(column, value):
                return self._contains(column, value)
            case Comparison(left, operator, right):
                first, second = self._operands(left, right)
                return COMPARE[operator](first, second)
            case Column():
                if self._kind(expression) != "truth":
                    raise self._mismatch(expression, "it stands alone, but is no column of booleans")
                return self._field(expression)

    def _operands(self, left: Column | Constant, right: Column | Constant) -> tuple[Any, Any]:
        if not isinstance(left, Column):
            assert isinstance(right, Column)
            column, constant = self._compared(right, left)
            return constant, column
        if not isinstance(right, Column):
            return self._compared(left, right)
        if self._kind(left) != self._kind(right) or self._kind(left) == "other":
            raise self._mismatch(left, f"it is compared with {right.name!r}, of the type {self._type(right)}")
        return self._columns(left, right)

    def _columns(self, left: Column, right: Column) -> tuple[Any, Any]:
        types = self._type(left), self._type(right)
        if types[0] == types[1] or not any(pa.types.is_floating(each) or pa.types.is_uint64(each) for each in types):
            return self._field(left), self._field(right)
        return self._as_float(left), self._as_float(right)

    def _compared(self, column: Column, value: Constant) -> tuple[Any, Any]:
        """Returns a column and a constant. pyarrow itself compares whole numbers in types that cannot hold them."""
        scalar, wanted = self._scalar(column, value), self._type(column)
        if not pa.types.is_integer(wanted):
            return self._field(column), scalar
        number = scalar.as_py()
        if _fits(number, wanted):
            return self._field(column), pa.scalar(int(number), wanted)
        return self._as_float(column), pa.scalar(float(number))

    def _as_float(self, column: Column) -> pc.Expression:
        return self._field(column).cast(pa.float64(), safe=False)

    def _member(self, column: Column, values: tuple[Constant, ...]) -> pc.Expression:
        """Returns what `in` means. For null the result is null, as in SQL; that of pyarrow's `isin` is false."""
        unknown = pc.scalar(pa.scalar(None, pa.bool_()))
        if not values:
            return self._field(column).is_null() & unknown
        plain = [self._scalar(column, value).as_py() for value in values]
        wanted = self._type(column)
        if pa.types.is_integer(wanted):
            plain = [int(value) for value in plain if _fits(value, wanted)]
        elif pa.types.is_floating(wanted):
            wanted = pa.float64()
            plain += [0.0, -0.0] if 0 in plain else []  # `isin` tells them apart
        field = self._field(column)
        if wanted != self._type(column):
            field = field.cast(wanted)
        return field.isin(pa.array(plain, wanted)) | (field.is_null() & unknown)

    def _contains(self, column: Column, value: Constant) -> pc.Expression:
        if self._kind(column) != "text" or not isinstance(value, str):
            raise self._mismatch(column, f"{value!r} can be looked for in columns of texts only, as a text")
        return pc.match_substring(self._field(column), value)

    def _scalar(self, column: Column, value: Constant) -> Any:
        """Returns a constant in a type that can be compared with the column. Raises ConfigError."""
        kind, wanted = self._kind(column), self._type(column)
        fits = {
            "number": isinstance(value, int | float) and not isinstance(value, bool),
            "text": isinstance(value, str),
            "truth": isinstance(value, bool),
            "time": isinstance(value, str),
        }
        if not fits.get(kind, False):
            raise self._mismatch(column, f"it is compared with {value!r}")
        try:
            if kind == "number":
                return pa.scalar(value, pa.uint64() if isinstance(value, int) and value >= 1 << 63 else None)
            return pa.scalar(value).cast(wanted) if kind == "time" else pa.scalar(value, wanted)
        except (pa.ArrowException, OverflowError, ValueError):
            raise self._mismatch(column, f"{value!r} is not a value of this type") from None

    def _field(self, column: Column) -> pc.Expression:
        given = self._schema.field(column.name).type
        return pc.field(column.name) if given == self._type(column) else pc.field(column.name).cast(self._type(column))

    def _type(self, column: Column) -> pa.DataType:
        """Returns the type in which a column is compared."""
        given = self._schema.field(column.name).type
        if pa.types.is_dictionary(given):
            given = given.value_type
        if pa.types.is_string_view(given) or pa.types.is_large_string(given):
            return pa.string()
        if pa.types.is_decimal(given) or pa.types.is_float16(given):
            return pa.float64()
        return given

    def _kind(self, column: Column) -> _Kind:
        given = self._type(column)
        if pa.types.is_integer(given) or pa.types.is_floating(given):
            return "number"
        if pa.types.is_string(given):
            return "text"
        if pa.types.is_boolean(given):
            return "truth"
        return "time" if pa.types.is_timestamp(given) or pa.types.is_date(given) or pa.types.is_time(given) else "other"

    def _mismatch(self, column: Column, why: str) -> ConfigError:
        given = self._schema.field(column.name).type
        return ConfigError(f"source_config.{self._setting}: the column {column.name!r} has the type {given}; {why}")


def _fits(value: float, wanted: pa.DataType) -> bool:
    """Returns whether a column of integers can hold a number."""
    if isinstance(value, float) and not value.is_integer():
        return False
    bits: int = wanted.bit_width
    lowest = 0 if pa.types.is_unsigned_integer(wanted) else -(1 << (bits - 1))
    return lowest <= value < lowest + (1 << bits)
