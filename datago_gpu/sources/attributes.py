"""Checks and encodes the attributes of samples. A source passes on only JSON that the trainer can read; other
attributes are replaced by none.

One rule holds for all sources: a picture is not lost because of its attributes. It is delivered with empty ones, and
counted.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import msgspec

__all__ = [
    "DEEPEST",
    "NO_ATTRIBUTES",
    "UNREADABLE",
    "check_attributes",
    "decode_json",
    "decode_leniently",
    "decode_object",
    "describe_problem",
    "encode",
]

NO_ATTRIBUTES = b"{}"
DEEPEST = 500
"""The most levels of objects and lists. Python decodes about 1,000 levels, less the calls under way: how many these are
differs from the feeder to the trainer, so that this limit, not the stack, decides."""
UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""What encoding and decoding JSON raises where a value or a text cannot be JSON."""
_LONGEST_PROBLEM = 200


class _OutOfRange:
    """Stands for a number that Python cannot hold; no encoder accepts it."""


def check_attributes(text: bytes) -> tuple[bytes, str]:
    """Returns the attributes to pass on and "", or empty attributes and what is wrong with the given ones.

    text: a JSON object, or null for none. The trainer can decode the returned attributes without an error.
    """
    if text in (NO_ATTRIBUTES, b"null"):
        return NO_ATTRIBUTES, ""
    try:
        value = msgspec.json.decode(text)
    except UNREADABLE as error:
        return NO_ATTRIBUTES, describe_problem(error)
    if not isinstance(value, dict):
        return NO_ATTRIBUTES, f"they are not a JSON object, but of the Python type {type(value).__name__}"
    if text.count(b"{") + text.count(b"[") > DEEPEST and _is_deeper(value, DEEPEST):
        return NO_ATTRIBUTES, f"they are nested more than {DEEPEST} levels deep"
    return text, ""


def describe_problem(error: Exception) -> str:
    """Describes an error of `UNREADABLE` in a few words, never none: no words stand for no problem."""
    return (str(error) or type(error).__name__)[:_LONGEST_PROBLEM]


def _is_deeper(value: dict[str, Any], most: int) -> bool:
    """Returns whether objects and lists are nested more than `most` levels deep."""
    level: list[Any] = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def decode_json(text: bytes) -> Any:
    """Decodes a text; if msgspec cannot, as `decode_leniently` does. Raises ValueError, RecursionError."""
    with suppress(ValueError):
        return msgspec.json.decode(text)
    return decode_leniently(text)


def decode_object(text: bytes) -> dict[str, Any] | None:
    """Returns the JSON object that a text holds, decoded by `decode_json`; None if it holds none."""
    try:
        value = decode_json(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def decode_leniently(text: bytes) -> Any:
    """Decodes a text with Python's JSON decoder, which accepts NaN and Infinity: they become None.

    Numbers out of range, and letters that are not UTF-8, become values that `encode` refuses. Raises ValueError,
    RecursionError.
    """
    letters = text.decode(json.detect_encoding(text), "surrogateescape")
    return json.loads(letters, parse_constant=lambda _: None, parse_float=_float, parse_int=_integer)


def encode(value: Any) -> bytes:
    """Returns a value as JSON. Raises ValueError, with a text for the user, if JSON cannot represent the value."""
    try:
        return msgspec.json.encode(value)
    except UNREADABLE:
        raise ValueError(
            "they contain half a surrogate pair, text that is not UTF-8, or a number out of range"
        ) from None


def _float(text: str) -> float | _OutOfRange:
    value = float(text)
    return value if math.isfinite(value) else _OutOfRange()


def _integer(text: str) -> int | _OutOfRange:
    try:
        return int(text)
    except ValueError:  # Python refuses to read thousands of digits
        return _OutOfRange()
