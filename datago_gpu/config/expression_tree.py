"""The tree of a filter expression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "COMPARE",
    "And",
    "Column",
    "Comparison",
    "Constant",
    "Contains",
    "Expression",
    "IsNull",
    "Member",
    "Not",
    "Operator",
    "Or",
    "columns_in",
]

Constant: TypeAlias = bool | int | float | str
Operator = Literal["==", "!=", "<", "<=", ">", ">="]
COMPARE: dict[Operator, Callable[[Any, Any], Any]] = {"==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
"""Operator -> the function of Python that compares values, and columns of pyarrow."""


class Column(Struct, frozen=True):
    """Names a column. place: where the name stands in the text, from 1; 0 if unknown."""

    name: str
    place: int = 0


class Comparison(Struct, frozen=True):
    """Compares two values, at least one of which is a column. The result is null if a value is null."""

    left: Column | Constant
    operator: Operator
    right: Column | Constant


class Member(Struct, frozen=True):
    """Holds if the value of a column is one of these. Null if the value is null."""

    column: Column
    values: tuple[Constant, ...]


class Contains(Struct, frozen=True):
    """Holds if a text contains this text, or if a list has this value. Null if the column has no value."""

    column: Column
    value: Constant


class IsNull(Struct, frozen=True):
    """Holds if a column has no value. NaN is a value."""

    column: Column


class Not(Struct, frozen=True):
    """Holds if the inner expression does not. Null if that is null."""

    inner: Expression


class And(Struct, frozen=True):
    """Holds if all parts hold. False if one is false, else null if one is null."""

    parts: tuple[Expression, ...]


class Or(Struct, frozen=True):
    """Holds if one part holds. Null if none holds and one is null."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = Comparison | Member | Contains | IsNull | Not | And | Or | Column
"""A Column alone is a column of booleans. As in SQL, a row passes if the expression is true, not if it is null."""


def columns_in(expression: Expression) -> Iterator[Column]:
    """Yields the columns that an expression names."""
    match expression:
        case Column():
            yield expression
        case Comparison(left, _, right):
            yield from (each for each in (left, right) if isinstance(each, Column))
        case Member(column) | Contains(column) | IsNull(column):
            yield column
        case Not(inner):
            yield from columns_in(inner)
        case And(parts) | Or(parts):
            for part in parts:
                yield from columns_in(part)
