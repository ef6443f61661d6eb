"""Defines `Excerpt`, a part of a body. Separate from range_body.py, so that only downloads over http import aiohttp."""

from __future__ import annotations

from msgspec import Struct

from datago_gpu.sources.http.failure import HttpFailure

__all__ = ["Excerpt"]


class Excerpt(Struct, frozen=True):
    """Holds a part of a body.

    content: the bytes asked for; fewer if the body ends before. total: bytes of the whole body; None if unknown.
    tag: identifies the version of the body: its ETag, or when it was changed (Last-Modified); "" if nothing does.
    """

    content: bytes
    total: int | None
    tag: str

    def exactly(self, length: int) -> bytes:
        """Returns the content, which must have that length. Raises HttpFailure if the body has ended before."""
        if len(self.content) != length:
            detail = f"the file ends after {len(self.content)} of the {length} bytes that were requested"
            raise HttpFailure("cut-short", detail)
        return self.content
