"""Filters mean what a simple evaluation of them in Python means, and errors name the place."""

from __future__ import annotations

import datetime as dt
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datago_gpu import ConfigError, LoaderConfig, SourceError
from datago_gpu.config.expression import ExpressionError, parse_expression
from datago_gpu.config.expression_tree import columns_in
from datago_gpu.sources.table.pushdown import filter_for
from tests.support.expressions import NAMES, ROWS, TEXTS_OF_FILTERS, Row, evaluate
from tests.support.tables import ids_of, table_config, write_table

SCHEMA = pa.schema(
    [("n", pa.int32()), ("f", pa.float64()), ("t", pa.string()), ("b", pa.bool_()), ("my column", pa.int64())]
)

TABLE, NAN = SCHEMA.append(pa.field("path", pa.string())), float("nan")


@settings(max_examples=150)
@given(TEXTS_OF_FILTERS, ROWS)
@example("not (t in ('a',))", [{"n": None, "f": None, "t": None, "b": None, "my column": 1}])
def test_a_filter_means_what_it_says(text: str, rows: list[Row]) -> None:
    tree = parse_expression(text)
    numbered = [{**row, "number": at} for at, row in enumerate(rows)]
    table = pa.Table.from_pylist(numbered, SCHEMA.append(pa.field("number", pa.int64())))
    expression, columns = filter_for(tree, table.schema)
    assert set(columns) == {column.name for column in columns_in(tree)}
    kept = table.filter(expression)["number"].to_pylist()
    assert kept == [at for at, row in enumerate(rows) if evaluate(tree, row)]


@settings(max_examples=40)
@given(TEXTS_OF_FILTERS, ROWS)
@example("not (f > 0.0)", [{"n": 1, "f": 1.0, "t": "", "b": True, "my column": 1}, dict.fromkeys(NAMES) | {"f": NAN}])
@example("f != 1.0", [{"n": 1, "f": 1.0, "t": "", "b": True, "my column": 1}, dict.fromkeys(NAMES) | {"f": NAN}])
def test_the_statistics_of_row_groups_leave_no_row_out(text: str, rows: list[Row]) -> None:
    """A Parquet file's statistics do not count NaN."""
    tree = parse_expression(text)
    kept = [str(at) for at, row in enumerate(rows) if evaluate(tree, row)]
    with tempfile.TemporaryDirectory() as folder:
        table = pa.Table.from_pylist([{**row, "path": str(at)} for at, row in enumerate(rows)], TABLE)
        path = write_table(Path(folder) / "t.parquet", table, row_group_size=2)
        try:
            assert ids_of(table_config(path, filter=text)) == kept
        except SourceError:  # no row passes
            assert not kept


def test_whole_numbers_of_64_bits() -> None:
    """pyarrow compares them with 1.5 in 32 bits, and unsigned ones with 1 in 63 bits, and raises if one is larger."""
    table = pa.table(
        {
            "large": pa.array([20_000_001, 3 << 60, 1, None]),
            "hash": pa.array([2**64 - 1, 1 << 63, 1, None], pa.uint64()),
            "share": pa.array([0.5, 2.5, 1.0, 1.0]),
        }
    )
    for text, count in (
        ("large > 1.5", 2), ("large > 1e6", 2), ("large < 1e30", 3), ("large > share", 2), ("hash > 1", 2),
        ("hash > 1.5", 2), ("hash == 18446744073709551615", 1), ("hash in (18446744073709551615, 1)", 2),
        ("hash > -1", 3), ("hash != 5", 3), ("-0.5 < hash", 3), ("hash > share", 2), ("hash > large", 2),
        ("large < 9223372036854775808", 3),
    ):  # fmt: skip
        assert table.filter(filter_for(parse_expression(text), table.schema)[0]).num_rows == count, text


@pytest.mark.parametrize("given_type", [pa.dictionary(pa.int8(), pa.string()), pa.large_string()])
def test_texts_of_every_type(given_type: pa.DataType) -> None:
    column = pa.array(["a", "b", None]).cast(given_type if not pa.types.is_dictionary(given_type) else pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(given_type) else column
    table = pa.table({"t": column})
    for text, count in (("t == 'a'", 1), ("t != 'a'", 1), ("t in ('a', 'x')", 1), ("t is null", 1)):
        assert table.filter(filter_for(parse_expression(text), table.schema)[0]).num_rows == count, text


def test_times_and_decimals() -> None:
    table = pa.table(
        {
            "at": pa.array(
                [dt.datetime(2024, 5, 1, tzinfo=dt.UTC), dt.datetime(2025, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us")
            ),
            "day": pa.array([dt.date(2024, 5, 1), None]),
            "score": pa.array([1, 2], pa.decimal128(10, 2)),
            "half": pa.array([1, 2], pa.float16()),
            "small": pa.array([1, 200], pa.uint8()),
        }
    )
    for text, count in (
        ("at >= '2024-06-01'", 1), ("at > '2024-05-01T00:00:00'", 1), ("day == '2024-05-01'", 1), ("score > 1.5", 1),
        ("half > 1.5", 1), ("score in (1, 2)", 2), ("small in (-1, 1.0, 2.5, 200, 300)", 2), ("small < 300", 2),
        ("small in (1e999, 1)", 1), ("small not in (-1e999, 1)", 1),
    ):  # fmt: skip
        assert table.filter(filter_for(parse_expression(text), table.schema)[0]).num_rows == count, text


REFUSED = [
    ("width >", "cannot be read at character"),
    ("width => 5", "near '=> 5': write '>=' instead of '=>'"),
    ("A = 5", "cannot be read at character 3, near '= 5': write '==' instead of '='"),
    ("(width > 5) & (height > 3)", "write 'and' instead of '&'"),
    ("width > 5 && height > 3", "write 'and' instead of '&&'"),
    ("width > 5 and NOT large", "write 'not' instead of 'NOT'"),
    ("(width > 5", "cannot be read"),
    ("width > 5 AND height > 3", "cannot be read at character 11, near 'AND height > 3': write 'and'"),
    ("__import__('os').system('x') == 1", "\"__import__('os').system('x')\" (character 1) is not allowed"),
    ("width.__class__ == 1", "'width.__class__' (character 1) is not allowed"),
    ("width + 1 > 2", "'width + 1' (character 1) is not allowed"),
    ("gr\N{LATIN SMALL LETTER O WITH DIAERESIS}n > 1 and x + 1", "'x + 1' (character 14) is not allowed"),
    ("len(caption) > 2", "is not allowed; allowed are comparisons"),
    ("[x for x in y] == 1", "is not allowed"),
    ("(lambda: 1) == 1", "is not allowed"),
    ("f'{width}' == 'a'", "is not allowed"),
    ("width == null", "use 'is null'"),
    ("width is 5", "where only null"),
    ("width in (height, 1)", "only numbers and texts"),
    ("width in height", "'width' (character 1) stands before 'in' and a column, where only a constant"),
    ("1 < 2", "not with a column"),
    ("5", "is not allowed"),
    ("width > 1j", "is not allowed"),
    ("(" * 500 + "a" + ")" * 500, "cannot be read"),
    ("not " * 5000 + "a", "cannot be read"),
    ("a or " * 30_000 + "a", "characters"),
    ("width > 1\0", "cannot be read"),
    ("width > 1  # wide\nand height > 1", "'# wide and height > 1' (character 12) is a comment"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
def test_what_is_no_filter_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert words in str(caught.value)
    with pytest.raises(ConfigError, match=r"source_config\.filter"):
        LoaderConfig.load(table_config("/a.parquet", filter=text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size > 3", "the column 'size' (character 1), which the table lacks; its columns are n, f, t, b, my column"),
        ("n == 'a'", "the column 'n' has the type int32; it is compared with 'a'"),
        ("t > 3", "the column 't' has the type string; it is compared with 3"),
        ("t == n", "it is compared with 'n', of the type int32"),
        ("n", "it stands alone, but is no column of booleans"),
        ("n in ('a', 3)", "it is compared with 'a'"),
        ("n == true", "it is compared with True"),
        ("n == 99999999999999999999", "99999999999999999999"),
        ("1 in n", "1 can be looked for in columns of texts only"),
        ("'a' in f", "'a' can be looked for in columns of texts only"),
        ("5 in t", "5 can be looked for in columns of texts only"),
    ],
)
def test_what_does_not_fit_the_columns_is_a_config_error(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        filter_for(parse_expression(text), SCHEMA)
    assert words in str(caught.value)


def test_a_column_that_is_there_twice_is_named() -> None:
    schema = pa.schema([("n", pa.int8()), ("n", pa.int8())])
    with pytest.raises(ConfigError, match="which the table has more than once"):
        filter_for(parse_expression("n > 1"), schema)


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with suppress(ExpressionError):
        parse_expression(text)


def test_an_expression_of_many_parts() -> None:
    """pyarrow crashes with some thousands of them, but takes as many values."""
    table = pa.table({"n": [1, 2]})
    for text in (" or ".join(["n == 1"] * 1000), f"n in ({', '.join(map(str, range(3, 15_000)))}, 1)"):
        expression, _ = filter_for(parse_expression(text), table.schema)
        assert table.filter(expression)["n"].to_pylist() == [1]
    with pytest.raises(ExpressionError, match="names columns 1,001 times, at most 1,000 are allowed"):
        parse_expression(" and ".join(["n == 1"] * 1001))


def test_an_expression_of_many_levels() -> None:
    table = pa.table({"n": [1, 2]})
    expression, _ = filter_for(parse_expression("not " * 190 + "n == 1"), table.schema)
    assert table.filter(expression)["n"].to_pylist() == [1]
    with pytest.raises(ExpressionError, match="more than 200 parts of it lie within one another"):
        parse_expression("not " * 900 + "n == 1")
