"""The origin of an address: scheme, host and port."""

from __future__ import annotations

from urllib.parse import urlsplit

from yarl import URL

__all__ = ["origin_of", "problem_of"]


def origin_of(url: str) -> str:
    """Scheme, host and port, such as `https://example.org`. Raises ValueError where there is none."""
    return str(URL(url).origin())


def problem_of(url: str) -> str:
    """What is wrong with an address that has no http(s) origin, in words that go behind "the address"."""
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
