"""Wildcards in addresses of object storage and of servers: `s3://bucket/data/part-*.parquet`."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

__all__ = ["folder_before_wildcard", "has_wildcard", "matches_pattern"]

_HTTP = ("http://", "https://")


def has_wildcard(address: str) -> bool:
    """Returns whether an address of object storage or of a server contains a wildcard."""
    return glob.has_magic(urlsplit(address).path if address.startswith(_HTTP) else address)


def folder_before_wildcard(address: str) -> str:
    """Returns the part of an address up to the last slash before its first wildcard."""
    before = re.split(r"[*?\[]", address, maxsplit=1)[0]
    return before.rpartition("/")[0] + "/"


def matches_pattern(pattern: Sequence[str], key: str) -> bool:
    """Returns whether a key matches a pattern, which is split at its slashes.

    A wildcard matches no slash, and no dot at the beginning.
    """
    parts = key.split("/")
    return len(parts) == len(pattern) and all(
        fnmatchcase(part, wanted) and part.startswith(".") <= wanted.startswith(".")
        for part, wanted in zip(parts, pattern, strict=True)
    )
