"""The limits on the time of one try of a request: how long nothing may come, and how long it may take in all."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler

from datago_gpu.config import HttpConfig

__all__ = ["Connector", "Watch"]


class Connector(aiohttp.TCPConnector):
    """Knows which tasks wait for a connection to be made, which has a limit of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connecting: set[asyncio.Task[Any] | None] = set()

    async def _create_connection(self, *arguments: Any) -> ResponseHandler:
        task = asyncio.current_task()
        self.connecting.add(task)
        try:
            return await super()._create_connection(*arguments)
        finally:
            self.connecting.discard(task)


class Watch:
    """A block that is left early, and quietly, when it stalls or takes too long: `expired` then says so. Of use once.

    One timer, set anew only when it runs out. aiohttp's own are two for each request and one for each piece of an
    answer, which takes 6 us of the 100 that a request of 40 KB costs.
    """

    __slots__ = (
        "_cancelling",
        "_connector",
        "_end",
        "_last",
        "_limits",
        "_loop",
        "_task",
        "_timer",
        "expired",
        "paused",
    )

    def __init__(
        self, limits: HttpConfig, connector: Connector, loop: asyncio.AbstractEventLoop, *, endless: bool = False
    ) -> None:
        """endless: there is no limit on the whole."""
        self._limits, self._connector, self._loop = limits, connector, loop
        self._end = math.inf if endless else loop.time() + limits.total_timeout_s
        self.paused = False
        """Set while the block waits for something else than the server."""
        self.expired = ""
        """What limit was passed, in words."""

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._last = self._loop.time()
        self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        # Somebody else may have cancelled the task in the same moment: that goes on.
        return bool(self.expired) and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def progress(self) -> None:
        """Something has come."""
        self._last = self._loop.time()

    def _arm(self) -> None:
        self._timer = self._loop.call_at(min(self._end, self._last + self._limits.stall_timeout_s), self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if self.paused or self._task in self._connector.connecting:
            self._last = now
        if now >= self._end:
            self.expired = f"not done within {self._limits.total_timeout_s:g} s"
        elif now >= self._last + self._limits.stall_timeout_s:
            self.expired = f"nothing came for {self._limits.stall_timeout_s:g} s"
        if self.expired:
            self._task.cancel()
        else:
            self._arm()
