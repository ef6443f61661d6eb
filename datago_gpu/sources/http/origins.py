"""Finds the origin of an address: scheme, host and port."""

from __future__ import annotations

from urllib.parse import urlsplit

from yarl import URL

__all__ = ["origin_of", "problem_of"]


def origin_of(url: str) -> str:
    """Returns scheme, host and port, such as `https://example.org`. Raises ValueError if the address has none."""
    return str(URL(url).origin())


def problem_of(url: str) -> str:
    """Returns what is wrong with an address without an http(s) origin, in words that follow "the address"."""
    if not url.lower().startswith(("http://", "https://")):
        return "must begin with http:// or https://"
    try:
        split = urlsplit(url)
        host = split.hostname
    except ValueError:
        return "has a host that cannot be read"
    port = split.netloc.rpartition("@")[2].rpartition(":")[2]
    try:
        known = split.port != 0
    except ValueError:
        known = False
    return "names no host" if known and not host else f"has the port {port!r}, and ports are numbers from 1 to 65535"
