"""Defines `Excerpt`, a part of a body. Separate from range_body.py, so that only downloads over http import aiohttp."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Excerpt"]


class Excerpt(Struct, frozen=True):
    """Holds a part of a body.

    content: the bytes asked for; fewer if the body ends before. total: bytes of the whole body; None if unknown.
    tag: identifies the version of the body: its ETag, or when it was changed (Last-Modified); "" if nothing does.
    """

    content: bytes
    total: int | None
    tag: str
