"""Evaluates an expression on one record in plain Python, with the results that pyarrow has for a row of a table.

A record need not fit the expression: JSON has any value under any name. A value of a wrong type counts as null, so that
one odd record does not end a run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from operator import eq
from typing import Any, TypeAlias

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
)

__all__ = ["Get", "Misfit", "compile_predicate"]

Get: TypeAlias = Callable[[str], Any]
"""Name -> value of a record; None for null."""
Misfit: TypeAlias = Callable[[str, Any, str], None]
"""Is told of a value that does not fit: its name, the value, and what it was used for, in words."""
_Truth: TypeAlias = bool | None
_Node: TypeAlias = Callable[[Get], _Truth]

_COMPARED = ("number", "text", "truth")


def _kind_of(value: object) -> str:
    """Returns the kind of a value of JSON: "number", "text", "truth", "list" or "other"."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "list" if isinstance(value, list | tuple) else "other"


def compile_predicate(expression: Expression, misfit: Misfit) -> _Node:
    """Returns a function of a record: True, False or None for null. Only with True does a record pass."""
    return _Compiler(misfit).node(expression)


class _Compiler:
    def __init__(self, misfit: Misfit) -> None:
        self._misfit = misfit

    def node(self, expression: Expression) -> _Node:
        match expression:
            case And(parts):
                return _joined([self.node(part) for part in parts], decisive=False)
            case Or(parts):
                return _joined([self.node(part) for part in parts], decisive=True)
            case Not(inner):
                return _inverse(self.node(inner))
            case IsNull(column):
                name = column.name
                return lambda get: get(name) is None
            case Member(column, values):
                return self._member(column.name, values)
            case Contains(column, value):
                return self._contains(column.name, value)
            case Comparison(left, operator, right):
                return self._comparison(left, COMPARE[operator], right)
            case Column(name):
                return self._alone(name)

    def _alone(self, name: str) -> _Node:
        def evaluate(get: Get) -> _Truth:
            value = get(name)
            if value is None or isinstance(value, bool):
                return value
            self._misfit(name, value, "where uses it as true or false, without comparing it")
            return None

        return evaluate

    def _member(self, name: str, values: tuple[Constant, ...]) -> _Node:
        kinds = {_kind_of(value) for value in values}

        def evaluate(get: Get) -> _Truth:
            value = get(name)
            if value is None:
                return None
            kind = _kind_of(value)
            if kinds and kind not in kinds:
                self._misfit(name, value, f"it is compared with {values[0]!r}")
                return None
            return any(_kind_of(each) == kind and _as_compared(value, each) for each in values)

        return evaluate

    def _contains(self, name: str, wanted: Constant) -> _Node:
        kind = _kind_of(wanted)

        def evaluate(get: Get) -> _Truth:
            value = get(name)
            if value is None:
                return None
            if isinstance(value, list | tuple):
                return any(_kind_of(each) == kind and each == wanted for each in value)
            if isinstance(value, str) and isinstance(wanted, str):
                return wanted in value
            self._misfit(name, value, f"{wanted!r} is looked for in it")
            return None

        return evaluate

    def _comparison(self, left: Column | Constant, compare: Callable[..., bool], right: Column | Constant) -> _Node:
        def evaluate(get: Get) -> _Truth:
            first = get(left.name) if isinstance(left, Column) else left
            second = get(right.name) if isinstance(right, Column) else right
            if first is None or second is None:
                return None
            kind = _kind_of(first)
            if kind in _COMPARED and kind == _kind_of(second):
                return _as_compared(first, second, compare)
            if isinstance(left, Column):
                self._misfit(left.name, first, f"it is compared with {second!r}")
            elif isinstance(right, Column):
                self._misfit(right.name, second, f"it is compared with {first!r}")
            return None

        return evaluate


def _as_compared(first: Any, second: Any, compare: Callable[..., bool] = eq) -> bool:
    """Compares two values of one kind. Whole numbers are compared with others as pyarrow does: in 64 bits."""
    if isinstance(first, float) is not isinstance(second, float) and not isinstance(first, str):
        with suppress(OverflowError):  # Python itself compares such a number exactly
            first, second = float(first), float(second)
    return bool(compare(first, second))


def _joined(nodes: list[_Node], *, decisive: bool) -> _Node:
    """Returns `and` of these, in which one False decides, or `or`, in which one True does. decisive: which of them."""

    def evaluate(get: Get) -> _Truth:
        result: _Truth = not decisive
        for node in nodes:
            value = node(get)
            if value is decisive:
                return decisive
            result = None if value is None else result
        return result

    return evaluate


def _inverse(node: _Node) -> _Node:
    def evaluate(get: Get) -> _Truth:
        value = node(get)
        return None if value is None else not value

    return evaluate
