"""Expressions of `filter` and `where`: texts and rows for hypothesis, and a simple evaluation in Python."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from datago_gpu.config.expression_tree import And, Column, Comparison, Contains, Expression, IsNull, Member, Not, Or

__all__ = ["NAMES", "ROWS", "TEXTS_OF_FILTERS", "Row", "evaluate"]

NAMES = {"n": "number", "f": "number", "t": "text", "b": "truth", "my column": "number"}
NUMBERS = st.integers(-2, 2) | st.sampled_from([-1.5, -0.0, 0.5, 1e3])
TEXTS = st.sampled_from(["", "a", "b", "it's", 'say "x"', "and"])
OPERATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
Row = dict[str, Any]


def constant(kind: str) -> st.SearchStrategy[Any]:
    return {"number": NUMBERS, "text": TEXTS, "truth": st.booleans()}[kind]


def written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def named(name: str) -> str:
    return name if name.isidentifier() else f'col("{name}")'


@st.composite
def leaves(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(NAMES)))
    value, operator = draw(constant(NAMES[name])), draw(OPERATORS)
    values = draw(st.lists(constant(NAMES[name]), min_size=1, max_size=3))
    forms = [
        f"{named(name)} {operator} {written(value)}",
        f"{written(value)} {operator} {named(name)}",
        f"{named(name)} in ({', '.join(map(written, values))},)",
        f"{named(name)} not in [{', '.join(map(written, values))}]",
        f"{named(name)} is null",
        f"{named(name)} is not null",
        f"{named(name)} {draw(st.sampled_from(['in', 'not in']))} ()",
        f"{written(draw(TEXTS))} {draw(st.sampled_from(['in', 'not in']))} t",
        f"n {operator} f",
        "b",
        f"-1 < n {draw(st.sampled_from(['<', '<=']))} {draw(st.integers(-1, 2))}",
    ]
    return draw(st.sampled_from(forms))


TEXTS_OF_FILTERS = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        inner.map(lambda text: f"not ({text})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}) and ({pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} or {pair[1]}"),
    ),
    max_leaves=5,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-2, 2),
            "f": st.none() | st.sampled_from([-1.5, -0.0, 0.0, 0.5, 1.0, 1e3, float("nan")]),
            "t": st.none() | TEXTS,
            "b": st.none() | st.booleans(),
            "my column": st.none() | st.integers(-2, 2),
        }
    ),
    min_size=1,
    max_size=6,
)


def evaluate(expression: Expression, row: Row) -> bool | None:
    """The simple evaluation: with None for null, as SQL has it."""
    match expression:
        case Column(name):
            truth: bool | None = row[name]
            return truth
        case IsNull(column):
            return row[column.name] is None
        case Not(inner):
            value = evaluate(inner, row)
            return None if value is None else not value
        case And(parts):
            values = [evaluate(part, row) for part in parts]
            return False if False in values else None if None in values else True
        case Or(parts):
            values = [evaluate(part, row) for part in parts]
            return True if True in values else None if None in values else False
        case Contains(column, value):
            found = row[column.name]
            return None if found is None else value in found
        case Member(column, values):
            return None if row[column.name] is None else row[column.name] in values
        case Comparison(left, operator, right):
            left, right = (row[each.name] if isinstance(each, Column) else each for each in (left, right))
            if left is None or right is None:
                return None
            return bool(eval(f"left {operator} right"))
