"""An expression means for a record of JSON what it means for a row of a table."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datago_gpu.config.expression import parse_expression
from datago_gpu.sources.predicate import compile_predicate
from datago_gpu.sources.table.pushdown import filter_for
from tests.support.expressions import NAMES, ROWS, TEXTS_OF_FILTERS, Row

LARGE = [2**53 + 1, -(2**53) - 1, 2**62, 5, None]
SCHEMA = pa.schema(
    [("n", pa.int64()), ("f", pa.float64()), ("t", pa.string()), ("b", pa.bool_()), ("my column", pa.int64())]
)


def refuse(name: str, value: Any, used: str) -> None:
    raise AssertionError(f"{name} ({value!r}) does not fit: {used}")


def passing(text: str, rows: list[Row]) -> list[int]:
    predicate = compile_predicate(parse_expression(text), refuse)
    return [at for at, row in enumerate(rows) if predicate(row.get) is True]


def passing_in_a_table(text: str, rows: list[Row]) -> list[int]:
    numbered = [{**row, "number": at} for at, row in enumerate(rows)]
    table = pa.Table.from_pylist(numbered, SCHEMA.append(pa.field("number", pa.int64())))
    found: list[int] = table.filter(filter_for(parse_expression(text), table.schema)[0])["number"].to_pylist()
    return found


@settings(max_examples=150)
@given(TEXTS_OF_FILTERS, ROWS)
@example("f in ()", [dict.fromkeys(NAMES) | {"f": float("nan")}])
@example("f not in (0,)", [dict.fromkeys(NAMES) | {"f": -0.0}])
def test_a_record_passes_where_a_row_does(text: str, rows: list[Row]) -> None:
    assert passing(text, rows) == passing_in_a_table(text, rows)


LARGE_TEXTS = ["n > f", "n == f", "n != f", "n >= 9007199254740992", "n < 1e16", "n in (9007199254740993, 5)"]
FLOATS = [2.0**53, 2.0**62, 5.0, 5.5, None]


@settings(max_examples=50)
@given(st.sampled_from(LARGE_TEXTS), st.lists(st.tuples(st.sampled_from(LARGE), st.sampled_from(FLOATS)), max_size=5))
def test_large_whole_numbers_are_compared_as_in_a_table(text: str, pairs: list[tuple[Any, Any]]) -> None:
    rows = [dict.fromkeys(NAMES) | {"n": n, "f": f} for n, f in pairs]
    assert passing(text, rows) == passing_in_a_table(text, rows)


@pytest.mark.parametrize("value", [99999999999999999999, "5", "", None, True, [5], {"a": 5}])
@pytest.mark.parametrize(
    "text", ["n > 1", "1 < n", "n == n2", "n in (1, 2)", "n", "'a' in n", "not (n > 1)", "n < 'x'"]
)
def test_a_value_of_a_wrong_type_counts_as_none_and_is_told_of(value: Any, text: str) -> None:
    told: list[tuple[str, Any]] = []
    predicate = compile_predicate(parse_expression(text), lambda name, found, _: told.append((name, found)))
    result = predicate({"n": value, "n2": 5}.get)
    null = predicate({"n": None, "n2": 5}.get)
    if told:
        assert told[0] == ("n", value)
        assert result is null is None
    else:
        assert value is None or result is not None


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("'cat' in tags", True),
        ("'dog' in tags", False),
        ("'dog' not in tags", True),
        ("not 'dog' in tags", True),
        ("1 in tags", False),
        ("true in tags", False),
        ("5 in numbers", True),
        ("'dog' in empty", False),
        ("'cat' in caption", True),
        ("'Cat' in caption", False),
        ("col('two words') is null", True),
        ("1 < score <= 2.5", True),
        ("score in (2.5, 'text')", True),
    ],
)
def test_lists_and_texts_are_searched(text: str, passes: bool) -> None:
    record = {"tags": ["cat", "cats"], "numbers": [1, 5.0], "empty": [], "caption": "a cat", "score": 2.5}
    assert passing(text, [record]) == ([0] if passes else [])
