"""Walks through a Dataroom listing: requests the next page while the current one is used, and checks the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from datago_gpu.errors import SourceError
from datago_gpu.eventloop import started
from datago_gpu.sources.dataroom.api import DataroomApi
from datago_gpu.sources.dataroom.pages import AnyEntry, Page
from datago_gpu.sources.http.http_client import without_query

__all__ = ["Tasks", "Walk"]

T = TypeVar("T")
logger = logging.getLogger(__name__)

_ASK_AGAIN = 2
"""How often a page is requested again that a timeout inside the server may have cut."""
_NORMALLY_SHORT = 3
"""After this many short pages that stayed short on a retry, the server's pages are assumed to be short."""
_TOLERATED_SHORTFALL = 0.01
"""Fraction of the server's count that may be missing, since images may change during a walk; more is an error."""


class Tasks:
    """Cancels and awaits its tasks at the end of a block. Drops finished tasks, since each would keep its page."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cancel()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = started(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._tasks.discard(task)

    async def cancel(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Walk:
    """Follows a listing page by page to its end.

    The server returns a partial page when a search takes too long: a page can be short, or empty and so look like the
    end. Therefore, unless `check` is false, the server's count is requested at the start, a short page before the end
    is requested again, and at the end a request asks for what follows the last image. Missing images cause a warning
    or, above 1%, a SourceError. Images may be added and removed during a walk: the lower of the counts at start and end
    is used.
    """

    def __init__(self, api: DataroomApi, parameters: Mapping[str, str], *, page_size: int, check: bool) -> None:
        """parameters: the filters and the partition."""
        self._api, self._filters, self._check = api, parameters, check
        self._page_size = page_size
        self._visited: set[int] = set()
        self._short_for_nothing = 0
        self._position = 0
        self._last_id = ""

    async def pages(self, shape: Mapping[str, str], position: int, cursor: str) -> AsyncGenerator[list[AnyEntry], None]:
        """Yields entries in the server's order, one page at a time, beginning after `cursor` with entry number
        `position`. A page may be empty.

        shape: the parameters that select the fields of a page. Raises SourceError, after all earlier pages.
        """
        self._position, self._last_id = position, cursor
        start = {**self._filters, **shape}
        async with Tasks() as tasks:
            count = tasks.start(self._api.count(self._filters)) if self._check else None
            url = self._api.address("images/", {**start, "cursor": cursor} if cursor else start)
            coming = tasks.start(self._api.page(url))
            while True:
                page = await self._complete(await coming, url, count)
                self._advance(page, url)
                following = None if page.next is None else self._next_address(page.next, url)
                if following is not None:
                    coming = tasks.start(self._api.page(following))
                yield page.results
                if following is None:
                    rest = self._api.address("images/", {**start, "cursor": self._last_id})
                    if count is None or not await self._is_more_at(rest, count):
                        return
                    following, coming = rest, tasks.start(self._api.page(rest))
                url = following

    async def _complete(self, page: Page, url: str, count: asyncio.Task[int | None] | None) -> Page:
        """Returns the page, or a fuller answer from the same address if the page is shorter than it should be."""
        short = 0 < len(page.results) < self._page_size
        if count is None or not short or self._short_for_nothing >= _NORMALLY_SHORT:
            return page
        expected = await count
        found = len(page.results)
        for _ in range(_ASK_AGAIN):
            if expected is None or self._position + len(page.results) >= expected:
                break
            again = await self._api.page(url)
            if len(again.results) > len(page.results):
                page = again
            if len(page.results) >= self._page_size:
                break
        else:
            self._short_for_nothing += len(page.results) == found
        return page

    def _advance(self, page: Page, url: str) -> None:
        self._position += len(page.results)
        last_id = next((entry.id for entry in reversed(page.results) if entry.id), "")
        if last_id and last_id == self._last_id:
            raise SourceError(f"{without_query(url)}: the listing goes round in circles: {last_id!r} is repeated")
        self._last_id = last_id or self._last_id

    def _next_address(self, given: str, url: str) -> str:
        following = self._api.next_address(given, url)
        self._visited.add(hash(url))
        if hash(following) in self._visited:
            raise SourceError(f"{without_query(url)}: the listing goes round in circles: `next` is repeated")
        return following

    async def _is_more_at(self, url: str, count: asyncio.Task[int | None]) -> bool:
        """Returns, at the end, whether images follow. Warns or raises SourceError if some are missing for good."""
        expected = await count
        if expected is None or self._position >= expected:
            return False
        much = expected - self._position > expected * _TOLERATED_SHORTFALL
        for _ in range(max(_ASK_AGAIN, self._api.max_tries) if much else _ASK_AGAIN):
            page = await self._api.page(url)
            first_id = next((entry.id for entry in page.results if entry.id), "")
            if first_id.encode() > self._last_id.encode():  # the API orders by id; anything else is no continuation
                return True
            await self._api.pause()
        now = await self._api.count(self._filters)
        expected = expected if now is None else min(expected, now)
        missing = expected - self._position
        text = (
            f"{without_query(url)}: the listing ended after {self._position} images, but the server counts {expected}"
        )
        if missing > expected * _TOLERATED_SHORTFALL:
            raise SourceError(f"{text}: a search may have timed out in the server; check_count false ignores this")
        if missing > 0:
            logger.warning("%s", text)
        return False
