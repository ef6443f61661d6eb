"""Makes addresses, names and texts from outside safe to print: without secrets and control characters."""

from __future__ import annotations

import re

__all__ = ["clip_word", "printable", "printable_json", "redacted", "shown_address", "shown_place", "without_query"]

_LIKE_A_KEY = re.compile(r"[0-9A-Fa-f]{32,}")
_LONGEST_WORD = 20
_SHORTEST = 6
"""Minimum number of characters of a key to redact. A shorter key could occur in ordinary words."""

# Control characters (C0, DEL, C1), marks that change the writing direction, line separators, and surrogates.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_NOT_IN_A_LINE = re.compile(f"[{_CONTROLS}\t\n]")
_NOT_IN_A_TEXT = re.compile(f"[{_CONTROLS}]")


def printable(text: str, *, lines: bool = False) -> str:
    """Replaces control characters by escapes, such as "\\x1b" and "\\n", so that a terminal or log can show `text`.

    So no file name, address or server response can colour a terminal, set its title or forge a line of a log.
    lines: keep line breaks and tabs, for texts of this package that have several lines.
    """
    return (_NOT_IN_A_TEXT if lines else _NOT_IN_A_LINE).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def printable_json(text: str) -> str:
    """Replaces control characters in JSON by "\\uNNNN". The JSON keeps its meaning and is safe to print."""
    return _NOT_IN_A_LINE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_query(url: str) -> str:
    """Removes query and fragment, which may hold a signature, and user name and password from `url`, for display."""
    return shown_place(url.partition("?")[0].partition("#")[0])


def shown_place(url: str) -> str:
    """Removes query, user name and password from the address of a payload, for display. Keeps "#", which may belong to
    the name of an object."""
    head = printable(url.partition("?")[0])
    scheme, slashes, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}" if slashes else head


def shown_address(url: str) -> str:
    """Returns a server's address for display. Hides keys: users may put the key into the address, or in its place."""
    return _LIKE_A_KEY.sub("***", without_query(url))


def redacted(text: str, key: str) -> str:
    """Replaces the key in `text` by ***."""
    return text.replace(key, "***") if len(key) >= _SHORTEST else text


def clip_word(text: str) -> str:
    """Returns a server-supplied word for a message: in full (so redaction can find a secret), or "..." if too long."""
    return text if len(text) <= _LONGEST_WORD else "..."
