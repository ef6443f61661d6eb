"""What may be shown of addresses and texts that may hold a secret."""

from __future__ import annotations

import re

__all__ = ["redacted", "shown_address", "without_query", "word"]

_LIKE_A_KEY = re.compile(r"[0-9A-Fa-f]{32,}")
_LONGEST_WORD = 20
_SHORTEST = 6
"""Letters. A shorter key would cut up words that have nothing to do with it."""


def without_query(url: str) -> str:
    """`url` as it may be shown: without query and fragment, which may hold a signature, and without a password."""
    head = url.partition("?")[0].partition("#")[0]
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
