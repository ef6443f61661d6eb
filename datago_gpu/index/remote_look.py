"""Looks at remote images: downloads the first bytes, and more only if the header is longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.index.look import Look, Looker, Looking
from datago_gpu.index.survey import renewed, row_of_place, row_of_sample
from datago_gpu.sources.http.excerpt import Excerpt
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.reference import SampleRef, Span

__all__ = ["Found", "GetRange", "RemoteLooker", "rows_of"]

_FIRST_BYTES = 64 * 1024
_AHEAD = 4


class GetRange(Protocol):
    """Returns a range of a body: see `HttpClient.get_range`."""

    def __call__(
        self, url: str, begin: int, end: int, *, tag: str = "", known: str = ""
    ) -> Awaitable[Excerpt | None]: ...


class Found(NamedTuple):
    """What was found at an address. size: of the whole file, in bytes; None if unknown. digest: as `Excerpt.tag`."""

    look: Look
    size: int | None = None
    digest: str = ""

    @classmethod
    def unreadable(cls, failure: HttpFailure) -> Found:
        """Returns the result for a file that cannot be read."""
        return cls(Look(reason=failure.reason, detail=failure.detail))

    def row(self, ref: SampleRef) -> IndexRow:
        """Returns the row of the sample whose image was looked at."""
        row = row_of_place(ref)
        row.bytes, row.digest = self.size, self.digest or None
        return row_of_sample(ref, self.look, row)


async def rows_of(ref: SampleRef, old: list[IndexRow], looking: Awaitable[Found | None]) -> list[IndexRow]:
    """Returns the rows of a sample: see `Survey.look`. looking: looks at its image, and returns None if the image has
    not changed."""
    try:
        found = await looking
    except HttpFailure as failure:
        found = Found.unreadable(failure)
    return renewed(ref, old) if found is None else [found.row(ref)]


class RemoteLooker:
    """Looks at images at addresses, `http_config.concurrent_downloads` at the same time."""

    def __init__(self, config: LoaderConfig, get: GetRange) -> None:
        self._looker, self._get = Looker(config, near=False), get
        self._most_bytes = Limits.of(config).payload
        self._slots = asyncio.Semaphore(config.http_config.concurrent_downloads)
        self.at_once = _AHEAD * config.http_config.concurrent_downloads
        """How many calls keep all slots busy, although their results are used in order."""

    async def look(self, url: str, known: str = "", span: Span | None = None) -> Found | None:
        """Returns what is at an address; None if its digest is `known`. Raises SourceError if the server is down.

        span: the part of the file that is the image. Raises HttpFailure if the file cannot be read.
        """
        async with self._slots:
            try:
                return await self._look(url, known, span)
            except HttpFailure as failure:
                if failure.down:
                    raise SourceError(f"{failure}; {failure.verdict}") from failure
                raise

    async def _look(self, url: str, known: str, span: Span | None) -> Found | None:
        at, size = span or (0, None)
        count = min(_FIRST_BYTES, self._most_bytes if size is None else size)
        first = await self._get(url, at, at + count, known=known)
        if first is None:
            return None
        size = first.total if size is None else size
        if size is None:  # the server does not say how long the file is
            first = await self._get(url, 0, self._most_bytes + 1) or first
            size = len(first.content)
        steps = self._looker.look(first.content, size)
        step = _advance(steps, None)
        while not isinstance(step, Look):
            begin, end = step
            more = await self._get(url, at + begin, at + end, tag=first.tag)
            if more is None or len(more.content) < end - begin:
                raise HttpFailure("changed", "the file became shorter while it was read")
            step = await call_in_thread(None, _advance, steps, more.content)
        return Found(step, size, first.tag)


def _advance(steps: Looking, content: bytes | None) -> tuple[int, int] | Look:
    """Passes bytes on. Returns which bytes are needed next, or the result."""
    try:
        return next(steps) if content is None else steps.send(content)
    except StopIteration as done:
        look: Look = done.value
        return look
