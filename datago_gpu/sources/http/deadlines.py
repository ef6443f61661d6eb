"""Applies the time limits of one try of a request: the longest time without progress, and the longest time in all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from datago_gpu.config import HttpConfig

__all__ = ["Connector", "Deadline", "Deadlines"]

_LOOKS = 16
"""Number of checks within the time of a limit: an expired limit is noticed up to one check late."""
_LONGEST_ROUND_S = 0.25


class Connector(aiohttp.TCPConnector):
    """A connector that knows which tasks wait for a new connection, which has a time limit of its own.

    tunnel_timeout_s: the limit for a connection through a proxy; aiohttp has no limit for a proxy's answer.
    """

    def __init__(self, tunnel_timeout_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._tunnel_timeout_s = tunnel_timeout_s
        self.connecting: set[asyncio.Task[Any] | None] = set()

    async def _create_connection(self, req: aiohttp.ClientRequest, *arguments: Any) -> ResponseHandler:
        task = asyncio.current_task()
        self.connecting.add(task)
        try:
            if not req.proxy:
                return await super()._create_connection(req, *arguments)
            async with asyncio.timeout(self._tunnel_timeout_s):
                return await super()._create_connection(req, *arguments)
        finally:
            self.connecting.discard(task)


class Deadlines:
    """Checks the time limits of all requests of a client periodically.

    Uses one timer for all requests, while there are any. aiohttp's own are two timers per request and one per piece of
    an answer, which takes 6 us of the 100 us that a request of 40 KB costs; one timer per request took 2 us.
    """

    def __init__(self, limits: HttpConfig, connector: Connector, loop: asyncio.AbstractEventLoop) -> None:
        self.limits, self.connector, self.loop = limits, connector, loop
        self._round_s = min(limits.stall_timeout_s / _LOOKS, limits.total_timeout_s / _LOOKS, _LONGEST_ROUND_S)
        self._running: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, deadline: Deadline) -> None:
        """Starts to check a deadline."""
        self._running.add(deadline)
        if self._timer is None:
            self._timer = self.loop.call_later(self._round_s, self._look)

    def end(self, deadline: Deadline) -> None:
        """Stops checking a deadline."""
        self._running.discard(deadline)

    def _look(self) -> None:
        now = self.loop.time()
        self._running = {deadline for deadline in self._running if deadline.goes_on(now)}
        self._timer = self.loop.call_later(self._round_s, self._look) if self._running else None


class Deadline:
    """A context manager whose block ends early, without an error, when it stalls or takes too long: `expired` then
    says so. Can be used once."""

    __slots__ = ("_cancelling", "_deadlines", "_end", "_last", "_task", "expired", "paused", "url")

    def __init__(self, deadlines: Deadlines, url: URL, *, endless: bool = False) -> None:
        """endless: there is no total limit."""
        self._deadlines = deadlines
        self.url = url
        """The current address, which redirects change."""
        self._last = deadlines.loop.time()
        self._end = math.inf if endless else self._last + deadlines.limits.total_timeout_s
        self.paused = False
        """Set while the block does not wait for the server."""
        self.expired = ""
        """Which limit was exceeded, in words."""

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._deadlines.loop)
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._deadlines.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._deadlines.end(self)
        # If other code cancelled the task at the same time, that cancellation goes on.
        return bool(self.expired) and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def progress(self) -> None:
        """Records that data has arrived."""
        self._last = self._deadlines.loop.time()

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Suspends all limits in a block that waits for something on this side."""
        end, began = self._end, self._deadlines.loop.time()
        self.paused, self._end = True, math.inf
        try:
            yield
        finally:
            self.paused, self._end = False, end + self._deadlines.loop.time() - began
            self.progress()

    def goes_on(self, now: float) -> bool:
        """Returns whether the block is within its limits; if not, ends the block."""
        limits = self._deadlines.limits
        if self.paused or self._task in self._deadlines.connector.connecting:
            self._last = now
        if now >= self._end:
            self.expired = f"not complete within {limits.total_timeout_s:g} s"
        elif now >= self._last + limits.stall_timeout_s:
            self.expired = f"no data for {limits.stall_timeout_s:g} s"
        if self.expired:
            self._task.cancel()
        return not self.expired
