"""What may be shown of addresses, names and texts that come from elsewhere: no secrets, and no control characters."""

from __future__ import annotations

import re

__all__ = ["printable", "printable_json", "redacted", "shown_address", "without_query", "word"]

_LIKE_A_KEY = re.compile(r"[0-9A-Fa-f]{32,}")
_LONGEST_WORD = 20
_SHORTEST = 6
"""Letters. A shorter key would cut up words that have nothing to do with it."""

# Control characters (C0, DEL, C1), marks that turn the direction of writing, separators of lines, and surrogates.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_NOT_IN_A_LINE = re.compile(f"[{_CONTROLS}\t\n]")
_NOT_IN_A_TEXT = re.compile(f"[{_CONTROLS}]")


def printable(text: str, *, lines: bool = False) -> str:
    """`text` as a terminal or a log may show it: control characters appear as escapes, such as "\\x1b" and "\\n".

    So no file name, address or answer of a server can colour a terminal, set its title or forge a line of a log.
    lines: keep the line breaks and tabs of a text that has several lines of our own.
    """
    return (_NOT_IN_A_TEXT if lines else _NOT_IN_A_LINE).sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def printable_json(text: str) -> str:
    """JSON that means the same as `text` and can be shown: control characters stand in it as "\\uNNNN"."""
    return _NOT_IN_A_LINE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_query(url: str) -> str:
    """`url` as it may be shown: without query and fragment, which may hold a signature, and without a password."""
    head = printable(url.partition("?")[0].partition("#")[0])
    scheme, slashes, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}" if slashes else head


def shown_address(url: str) -> str:
    """A server's address as the user gave it, who may have put the key into it, or in its place."""
    return _LIKE_A_KEY.sub("***", without_query(url))


def redacted(text: str, key: str) -> str:
    """`text` with *** for the key, should it be there."""
    return text.replace(key, "***") if len(key) >= _SHORTEST else text


def word(text: str) -> str:
    """A word of a server's for a message: whole, so that a secret in it can be found there, or not at all."""
    return text if len(text) <= _LONGEST_WORD else "..."
