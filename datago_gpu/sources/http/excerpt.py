"""Defines `Excerpt`, a part of a body, and reads payloads that are parts of a body.

Separate from range_body.py, so that only downloads over http import aiohttp.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.reference import Need, Span

__all__ = ["Excerpt", "read_span"]


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


async def read_span(
    get_range: Callable[[int, int], Awaitable[Excerpt | None]], span: Span, max_bytes: int, need: Need | None
) -> bytes:
    """Returns the payload that is a span of a body, of at most `max_bytes`. Raises HttpFailure.

    get_range: reads the bytes from one number up to another. need: called before memory is allocated.
    """
    if span.length > max_bytes:
        raise HttpFailure("too-large", f"{span.length} bytes, at most {max_bytes} are allowed")
    if need:
        await need(span.length)
    excerpt = await get_range(span.begin, span.end)
    assert excerpt is not None
    return excerpt.exactly(span.length)
