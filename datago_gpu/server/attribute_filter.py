"""Attributes: their types as the data shows them, the rows they are searched by, and the filter on them.

A real Dataroom keeps a schema that people write; here it follows from the values that the images have: integer,
number (integers too), boolean, date (strings that are all `YYYY-MM-DD`), date-time (those and full timestamps), string,
and object. A list has the type of its items. An attribute of mixed types is a string, and its values of other types
match nothing. Objects, and lists of objects or lists, cannot be filtered, as there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

MAX_EXACT_UNITS = 256
"""Longer values, in UTF-16 units, are not indexed for eq, ne and prefix, as in the real index."""

_MAX_INTEGER = 2**63 - 1

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")

# Close to the standard analyzer of the real index: words by the rules of Unicode, so that "don't" and "3.5" are one
# word and each Chinese or Japanese character is one.
_IDEOGRAPH = "\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(
    rf"[{_IDEOGRAPH}]|[^\W{_IDEOGRAPH}]+"
    rf"(?:(?:(?<=[^\W\d_])['\u2019.:\u00b7](?=[^\W\d_])|(?<=\d)['\u2019.,;](?=\d))[^\W{_IDEOGRAPH}]+)*"
)


class Cell(NamedTuple):
    """One searchable value of an attribute; a list makes one cell for each item."""

    kind: str
    """null, integer, number, boolean, date, date-time, string or object."""
    number: float | None = None
    moment: int | None = None
    """Milliseconds since 1970, of a date."""
    exact: str | None = None
    """The text, unless it is too long to be indexed."""
    words: str | None = None
    """The words of the text, lower case, with a blank before and after each."""


NULL = Cell("null")


def words_of(text: str) -> list[str]:
    """The words that match and match_phrase compare."""
    return [word.lower() for word in _WORD.findall(text)]


def _moment(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _text_cell(text: str) -> Cell:
    exact = text if len(text.encode("utf-16-le")) <= 2 * MAX_EXACT_UNITS else None
    is_day = _DAY.fullmatch(text)
    moment = _moment(text) if is_day or _TIMESTAMP.fullmatch(text) else None
    kind = "string" if moment is None else "date" if is_day else "date-time"
    return Cell(kind, moment=moment, exact=exact, words=f" {' '.join(words_of(text))} ")


def _cell(value: Any) -> Cell:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return Cell("boolean", number=int(value))
    if isinstance(value, int):
        return Cell("integer", number=value if abs(value) <= _MAX_INTEGER else _as_float(value))
    if isinstance(value, float):
        return Cell("number", number=value)
    return _text_cell(value) if isinstance(value, str) else Cell("object")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def cells(value: Any) -> Iterator[Cell]:
    """The cells of one attribute of one image, at least one."""
    if isinstance(value, list) and value:
        yield from map(_cell, value)
    else:
        yield NULL if value == [] else _cell(value)


def merge_kinds(kinds: Iterable[str]) -> str:
    """The type of an attribute whose values are of these kinds."""
    found = set(kinds) - {"null"}
    if "object" in found:
        return "object"
    for kind, fits in _WIDENING:
        if found and found <= fits:
            return kind
    return "string"


_WIDENING = (
    ("integer", {"integer"}),
    ("number", {"integer", "number"}),
    ("boolean", {"boolean"}),
    ("date", {"date"}),
    ("date-time", {"date", "date-time"}),
)


# The filter.

_ORDERED = frozenset({"eq", "ne", "lt", "lte", "gt", "gte"})
_COMPARATORS = {
    "integer": _ORDERED,
    "number": _ORDERED,
    "date": _ORDERED,
    "date-time": _ORDERED,
    "boolean": frozenset({"eq", "ne"}),
    "string": frozenset({"eq", "ne", "match", "match_phrase", "prefix", "not_match", "not_match_phrase", "not_prefix"}),
}
_KNOWN_COMPARATORS = frozenset().union(*_COMPARATORS.values())
_POSITIVE = {"ne": "eq", "not_match": "match", "not_match_phrase": "match_phrase", "not_prefix": "prefix"}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE_VALUE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T(\d{2}))?)?)?", re.ASCII)
_MILLISECONDS = re.compile(r"-?\d{5,17}", re.ASCII)


class InvalidAttributeFilter(Exception):
    """The filter is refused; the text is the answer's."""


class UnanswerableFilter(Exception):
    """A number or date that the real server lets through to its index, which then fails."""


class Condition(NamedTuple):
    """SQL over one row of `attributes`, and its arguments."""

    sql: str
    args: tuple[Any, ...]


class AttributeTest(NamedTuple):
    """One `name:value` pair: keeps the images with (`negated`: without) a cell of `name` that meets `condition`."""

    name: str
    negated: bool
    condition: Condition


def parse_attribute_filter(text: str, kinds: dict[str, str]) -> list[AttributeTest]:
    """Parses `name:value,name__cmp:value`. `kinds` maps each known attribute to its type.

    Raises InvalidAttributeFilter, or, only when nothing else is wrong, UnanswerableFilter."""
    pairs = [_check(pair, kinds) for pair in text.split(",")]
    return [_test(*pair) for pair in pairs]


def _check(pair: str, kinds: dict[str, str]) -> tuple[str, str, str, str]:
    name, colon, value = pair.partition(":")
    if not colon or ":" in value:
        raise InvalidAttributeFilter("Invalid filter value for attributes")
    name, comparator = _split_comparator(name)
    kind = kinds.get(name)
    if kind is None:
        raise InvalidAttributeFilter(f'Field "{name}" not found in schema')
    if kind == "object":
        raise InvalidAttributeFilter(f"Attribute '{name}' is not indexed and can therefore not be used for filtering.")
    if comparator not in _COMPARATORS[kind]:
        raise InvalidAttributeFilter(f"Invalid comparator '{comparator}' for attribute '{name}' of type '{kind}'")
    if kind == "boolean" and value.lower() not in ("true", "false"):
        raise InvalidAttributeFilter(f"Invalid filter value '{value}' for attribute '{name}'")
    return name, kind, comparator, value


def _split_comparator(text: str) -> tuple[str, str]:
    name, underscores, suffix = text.rpartition("__")
    if not underscores:
        return text, "eq"
    return name, suffix if suffix in _KNOWN_COMPARATORS else "eq"


def _test(name: str, kind: str, comparator: str, value: str) -> AttributeTest:
    positive = _POSITIVE.get(comparator, comparator)
    if kind == "string":
        condition = _string_condition(positive, value)
    elif kind == "boolean":
        condition = Condition("number = ?", (int(value.lower() == "true"),))
    else:
        column, (low, high) = ("moment", _dates(value)) if kind.startswith("date") else ("number", _number(kind, value))
        condition = _ordered_condition(column, positive, low, high)
    return AttributeTest(name, positive != comparator, condition)


def _string_condition(comparator: str, value: str) -> Condition:
    if comparator == "eq":
        return Condition("exact = ?", (value,))
    if comparator == "prefix":
        return Condition("substr(exact, 1, length(?)) = ?", (value, value))
    words = list(dict.fromkeys(words_of(value))) if comparator == "match" else [" ".join(words_of(value))]
    if not any(words):
        return Condition("0", ())
    # One look for each word keeps the expression flat, whatever the number of words.
    return Condition(
        "EXISTS (SELECT 1 FROM json_each(?) WHERE instr(words, value) > 0)",
        (msgspec.json.encode([f" {word} " for word in words]).decode(),),
    )


def _ordered_condition(column: str, comparator: str, low: float, high: float) -> Condition:
    """`low` and `high` are the first and the last moment that a date means; a number is both."""
    if comparator == "eq":
        return Condition(f"{column} BETWEEN ? AND ?", (low, high))
    operator, bound = {"lt": ("<", low), "lte": ("<=", high), "gt": (">", high), "gte": (">=", low)}[comparator]
    return Condition(f"{column} {operator} ?", (bound,))


def _number(kind: str, value: str) -> tuple[float, float]:
    text = value.strip()
    if not _NUMBER.fullmatch(text):
        raise UnanswerableFilter
    number = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)
    if abs(number) > (_MAX_INTEGER if kind == "integer" else sys.float_info.max):
        raise UnanswerableFilter
    return number, number


def _dates(value: str) -> tuple[int, int]:
    """The first and the last millisecond of a year, month, day or hour; or of a moment in milliseconds."""
    if _MILLISECONDS.fullmatch(value):
        return int(value), int(value)
    parts = _DATE_VALUE.fullmatch(value)
    if not parts:
        raise UnanswerableFilter
    given = [int(part) for part in parts.groups() if part]
    year, month, day, hour = given + [1, 1, 1, 0][len(given) :]
    try:
        start = datetime(year, month, day, hour, tzinfo=UTC)
        end = _after(start, len(given))
    except (ValueError, OverflowError) as error:
        raise UnanswerableFilter from error
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    first = (start - epoch) // timedelta(milliseconds=1)
    return first, (end - epoch) // timedelta(milliseconds=1) - 1


def _after(start: datetime, precision: int) -> datetime:
    """The start of the next year (precision 1), month (2), day (3) or hour (4)."""
    if precision == 1:
        return start.replace(year=start.year + 1)
    if precision == 2:
        return (start + timedelta(days=31)).replace(day=1)
    return start + (timedelta(days=1) if precision == 3 else timedelta(hours=1))
