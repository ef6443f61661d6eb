"""Cuts the list out of a JSON text, entry by entry, without decoding the entries.

A decoder decodes a whole text at once and holds the interpreter's lock meanwhile: 16 MiB of `0,` become 8 million
objects. A text that is cut into its entries can be counted first, and decoded piece by piece.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec
from msgspec import Struct

__all__ = ["NotJson", "Pieces", "TooMany", "cut"]

_BLANKS = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,:\"\[\]{}]++")
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"){0,1000}+([\[\]{}]?)', re.DOTALL)
"""Matches text without brackets, with strings as a whole, and the next bracket; long text only in part, so that
other threads can run."""
_MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8; some servers begin with it."""
_QUOTE, _OPEN_LIST, _OPEN_OBJECT = b'"[{'
_OPENING = (b"[", b"{")
_MOST_FIELDS = 1000


class NotJson(Exception):
    """Says that a text is no JSON, as far as it was parsed."""


class TooMany(Exception):
    """Says that the list has more entries, or the object more fields, than allowed."""


class Pieces(Struct):
    """Holds what was cut out of a text. If the text is valid, each piece is a JSON value."""

    entries: list[bytes] | None = None
    """The entries of the list; None if there is no list."""
    fields: dict[str, bytes] = {}
    """The requested fields of the object around the list."""


def cut(text: bytes, names: Collection[str], kept: Collection[str], most: int) -> Pieces:
    """Returns the entries of a list, at most `most`: the list of the top-level object under one of `names`, or the text
    itself.

    kept: names of further fields to return. Raises NotJson, TooMany.
    """
    found = Pieces(fields={})
    at = _blanks(text, len(_MARK) if text.startswith(_MARK) else 0)
    if text[at : at + 1] == b"[":
        found.entries, at = _entries(text, at, most)
    elif text[at : at + 1] == b"{":
        at = _object(text, at, found, names, kept, most)
    else:
        at = _end(text, at)
    if _blanks(text, at) != len(text):
        raise NotJson
    return found


def _object(text: bytes, at: int, found: Pieces, names: Collection[str], kept: Collection[str], most: int) -> int:
    """Returns the offset at which the object ends that begins at `at`."""
    at = _blanks(text, at + 1)
    if text[at : at + 1] == b"}":
        return at + 1
    for _ in range(_MOST_FIELDS):
        end = _end_of_string(text, at)
        name = _name(text[at:end])
        at = _blanks(text, _skip_sign(b":", text, end))
        if name in names and text[at : at + 1] == b"[":
            found.entries, at = _entries(text, at, most)
        else:
            begin, at = at, _end(text, at)
            if name in kept:
                found.fields[name] = text[begin:at]
        at = _blanks(text, at)
        if text[at : at + 1] == b"}":
            return at + 1
        at = _blanks(text, _skip_sign(b",", text, at))
    raise TooMany(f"more than {_MOST_FIELDS} fields")


def _entries(text: bytes, at: int, most: int) -> tuple[list[bytes], int]:
    """Returns the entries of the list that begins at `at`, and the offset of its end."""
    entries: list[bytes] = []
    at = _blanks(text, at + 1)
    if text[at : at + 1] == b"]":
        return entries, at + 1
    while len(entries) < most:
        end = _end(text, at)
        entries.append(text[at:end])
        at = _blanks(text, end)
        if text[at : at + 1] == b"]":
            return entries, at + 1
        at = _blanks(text, _skip_sign(b",", text, at))
    raise TooMany(f"more than {most} entries")


def _end(text: bytes, at: int) -> int:
    """Returns the offset at which the value ends that begins at `at`."""
    first = text[at] if at < len(text) else 0
    if first == _QUOTE:
        return _end_of_string(text, at)
    if first not in (_OPEN_LIST, _OPEN_OBJECT):
        scalar = _SCALAR.match(text, at)
        if scalar is None:
            raise NotJson
        return scalar.end()
    depth = 0
    while (bracket := _BRACKET.match(text, at)) and bracket.end() > at:
        at = bracket.end()
        if bracket[1]:
            depth += 1 if bracket[1] in _OPENING else -1
            if not depth:
                return at
    raise NotJson


def _end_of_string(text: bytes, at: int) -> int:
    string = _STRING.match(text, at)
    if string is None:
        raise NotJson
    return string.end()


def _name(string: bytes) -> str:
    try:
        return msgspec.json.decode(string, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise NotJson from None


def _skip_sign(sign: bytes, text: bytes, at: int) -> int:
    at = _blanks(text, at)
    if text[at : at + 1] != sign:
        raise NotJson
    return at + 1


def _blanks(text: bytes, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    assert blanks is not None
    return blanks.end()
