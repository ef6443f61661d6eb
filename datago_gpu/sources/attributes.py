"""The attributes of samples. A source passes on JSON that the trainer can read; where it cannot, the sample has none.

One rule for all sources: a picture is not lost for its attributes. It is delivered with empty ones, and counted.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

__all__ = ["NO_ATTRIBUTES", "checked", "encoded", "lenient"]

NO_ATTRIBUTES = b"{}"
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
_LONGEST_PROBLEM = 200


class _OutOfRange:
    """Stands for a number that Python does not hold; no encoder takes it."""


def checked(text: bytes) -> tuple[bytes, str]:
    """Attributes to pass on, and what is wrong with those that are given, in place of which they are then empty.

    text: JSON of an object, or null for none. What comes back is decoded without an error by `msgspec.json.decode`.
    """
    if text in (NO_ATTRIBUTES, b"null"):
        return NO_ATTRIBUTES, ""
    try:
        value = msgspec.json.decode(text)
    except _UNREADABLE as error:
        return NO_ATTRIBUTES, f"{error or type(error).__name__}"[:_LONGEST_PROBLEM]
    if not isinstance(value, dict):
        return NO_ATTRIBUTES, f"they are no JSON object, but of Python's type {type(value).__name__}"
    return text, ""


def lenient(text: bytes) -> Any:
    """What a text is in Python's JSON, which knows NaN and Infinity: they become None.

    A number out of range, and letters that are not UTF-8, become what `encoded` does not take. Raises ValueError,
    RecursionError.
    """
    letters = text.decode(json.detect_encoding(text), "surrogateescape")
    return json.loads(letters, parse_constant=lambda _: None, parse_float=_float, parse_int=_integer)


def encoded(value: Any) -> bytes:
    """A value as JSON. Raises ValueError where JSON cannot tell it, with a text for the user."""
    try:
        return msgspec.json.encode(value)
    except _UNREADABLE:
        raise ValueError("they hold half a surrogate pair, what is not UTF-8, or a number out of range") from None


def _float(text: str) -> float | _OutOfRange:
    value = float(text)
    return value if math.isfinite(value) else _OutOfRange()


def _integer(text: str) -> int | _OutOfRange:
    try:
        return int(text)
    except ValueError:  # Python refuses to read thousands of digits
        return _OutOfRange()
