"""Finds the origin of an http(s) address: scheme, host and port."""

from __future__ import annotations

from urllib.parse import urlsplit

from yarl import URL

from datago_gpu.redact import clip_word

__all__ = ["origin_of"]


def origin_of(url: str) -> str:
    """Returns scheme, host and port, such as `https://example.org`.

    Raises ValueError, whose text says what is wrong with the address, in words that follow "the address".
    """
    if url.lower().startswith(("http://", "https://")):
        try:
            urlsplit(url)  # what only one of the two can read is refused as well
            return str(URL(url).origin())
        except ValueError:
            problem = _problem(url)
    else:
        problem = "must begin with http:// or https://"
    raise ValueError(problem)  # outside `except`, so that no foreign error with the address is its context


def _problem(url: str) -> str:
    try:
        split = urlsplit(url)
        host = split.hostname
    except ValueError:
        return "has a host that is not valid"
    port = split.netloc.rpartition("@")[2].rpartition(":")[2]
    try:
        known = split.port != 0
    except ValueError:
        known = False
    if known and not host:
        return "has no host"
    return f"has the port {clip_word(port)!r}, but ports are numbers from 1 to 65535"
