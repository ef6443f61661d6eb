"""Cuts a list out of a JSON text, entry by entry, without making anything of what the entries hold.

A decoder makes all of a text at once, and holds the interpreter's lock meanwhile: 16 MiB of `0,` become 8 million
objects. Cut into its entries, a text can be counted first, and decoded a piece at a time.
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
"""Whatever holds no bracket, strings as a whole, and the next bracket; or so much, to let other threads go on."""
_MARK = b"\xef\xbb\xbf"
"""Of UTF-8; some servers begin with it."""
_QUOTE, _OPEN_LIST, _OPEN_OBJECT = b'"[{'
_OPENING = (b"[", b"{")
_MOST_FIELDS = 1000


class NotJson(Exception):
    """A text that is no JSON, as far as it was looked at."""


class TooMany(Exception):
    """More entries in the list, or fields around it, than are allowed."""


class Pieces(Struct):
    """What was cut out of a text. Where it is valid, each piece is a JSON value."""

    entries: list[bytes] | None = None
    """Of the list; None where there is none."""
    fields: dict[str, bytes] = {}
    """Of the object around it, those that were asked for."""


def cut(text: bytes, names: Collection[str], kept: Collection[str], most: int) -> Pieces:
    """The entries of a list, at most `most`: that of the top-level object under one of these names, or the text itself.

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
    """Where the object ends that begins at `at`."""
    at = _blanks(text, at + 1)
    if text[at : at + 1] == b"}":
        return at + 1
    for _ in range(_MOST_FIELDS):
        end = _end_of_string(text, at)
        name = _name(text[at:end])
        at = _blanks(text, _past(b":", text, end))
        if name in names and text[at : at + 1] == b"[":
            found.entries, at = _entries(text, at, most)
        else:
            begin, at = at, _end(text, at)
            if name in kept:
                found.fields[name] = text[begin:at]
        at = _blanks(text, at)
        if text[at : at + 1] == b"}":
            return at + 1
        at = _blanks(text, _past(b",", text, at))
    raise TooMany(f"more than {_MOST_FIELDS} fields")


def _entries(text: bytes, at: int, most: int) -> tuple[list[bytes], int]:
    """The entries of the list that begins at `at`, and where it ends."""
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
        at = _blanks(text, _past(b",", text, at))
    raise TooMany(f"more than {most} entries")


def _end(text: bytes, at: int) -> int:
    """Where the value ends that begins at `at`."""
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


def _past(sign: bytes, text: bytes, at: int) -> int:
    at = _blanks(text, at)
    if text[at : at + 1] != sign:
        raise NotJson
    return at + 1


def _blanks(text: bytes, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    assert blanks is not None
    return blanks.end()
