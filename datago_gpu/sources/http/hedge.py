"""Hedged downloads: a request much slower than usual is sent a second time, and the first answer wins.

Object stores answer a few requests in a thousand a hundred times later than the rest; a stream that keeps its order
waits for each of them. Jeffrey Dean and Luiz Andre Barroso call this a hedged request ("The Tail at Scale", CACM 56(2),
2013) and have shown that a few per cent of extra requests remove nearly all of the tail.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from datago_gpu.config import HttpConfig
from datago_gpu.eventloop import watched
from datago_gpu.sources.http.excerpt import read_span
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Need, Span

__all__ = ["HedgedClient"]

_SEEN = 256
"""Number of latest answers whose times define what is usual."""
_SEEN_BEFORE_HEDGING = 32
_QUANTILE = 0.95
_TIMES_USUAL = 2.0
"""A request is late after this multiple of the quantile, so that the slowest of similar requests are not."""
_LEAST_DELAY_S = 0.02
_LONGEST_TICK_S = 0.25
_BURST = 16.0
"""Number of extra requests that can be saved up while no request is late."""


class HedgedClient:
    """Downloads payloads with an HttpClient. Extra requests are at most `hedge_share` of all, plus a burst of 16.

    A request in time costs only the recording of its start and duration: no task, no timer.
    """

    def __init__(self, http: HttpClient, config: HttpConfig) -> None:
        self._http, self._share, self._most = http, config.hedge_share, config.concurrent_downloads
        self._loop = asyncio.get_running_loop()
        self._open: set[_Request] = set()
        self._twins: set[asyncio.Task[None]] = set()
        self._seconds: deque[float] = deque(maxlen=_SEEN)
        self._credit = 1.0
        self._tick: asyncio.TimerHandle | None = None
        self.extra = 0
        """Extra requests made so far."""

    async def get(
        self,
        url: str,
        max_bytes: int,
        need: Need | None = None,
        span: Span | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Returns the body at `url`, or the bytes `span` of it, of at most `max_bytes`. Raises HttpFailure.

        need: called with the size of the body before memory is allocated, and again for each extra request. headers:
        sent to this URL's own origin only.
        """
        ask = partial(self._ask, url, max_bytes, span, headers)
        if not self._share:
            return await ask(need)
        request = _Request(ask, self._loop, need)
        self._begin(request)
        try:
            body = await ask(need)
        except asyncio.CancelledError:
            if request.answer is None or request.task.uncancel() > request.cancelling:
                raise
            body = request.answer
        finally:
            self._open.discard(request)
            if request.twins:
                for twin in request.twins:
                    twin.cancel()
        self._seconds.append(self._loop.time() - request.began)
        return body

    async def _ask(
        self, url: str, max_bytes: int, span: Span | None, headers: Mapping[str, str] | None, need: Need | None
    ) -> bytes:
        if span is None:
            return (await self._http.get(url, max_bytes=max_bytes, headers=headers, private=True, need=need)).body
        return await read_span(partial(self._http.get_range, url, headers=headers), span, max_bytes, need)

    def _begin(self, request: _Request) -> None:
        self._open.add(request)
        if self._credit < _BURST:
            self._credit += self._share
        if self._tick is None and len(self._seconds) >= _SEEN_BEFORE_HEDGING:
            self._look_again_in(self._delay_s())

    def _look_again_in(self, delay_s: float) -> None:
        self._tick = self._loop.call_later(min(delay_s / 4, _LONGEST_TICK_S), self._look)

    def _delay_s(self) -> float:
        usual = sorted(self._seconds)[int(len(self._seconds) * _QUANTILE)]
        return max(_LEAST_DELAY_S, _TIMES_USUAL * usual)

    def _look(self) -> None:
        """Sends an extra request for each late one, the latest first; again if the extra one is late itself."""
        self._tick = None
        if not self._open:
            return
        delay_s, now = self._delay_s(), self._loop.time()
        pausing = self._http.pausing  # the server has asked clients to wait
        late = [request for request in self._open if now - request.asked > delay_s and request.task not in pausing]
        for request in sorted(late, key=lambda request: request.asked):
            if self._credit < 1 or len(self._twins) >= self._most:
                break
            self._credit -= 1
            self.extra += 1
            request.asked = now
            twin = watched(self._ask_too(request, 2 + len(request.twins)))
            request.twins = [*request.twins, twin]
            self._twins.add(twin)
            twin.add_done_callback(self._twins.discard)
        self._look_again_in(delay_s)

    async def _ask_too(self, request: _Request, bodies: int) -> None:
        """Sends an extra request. bodies: the bodies of this payload that may be in memory by now, with this one."""
        need = request.need and partial(_need_in_all, request.need, bodies)
        try:
            answer = await request.ask(need)
        except HttpFailure:
            return  # the first request reports the error
        if request in self._open and request.answer is None:
            request.answer = answer
            request.task.cancel()


async def _need_in_all(need: Need, bodies: int, size: int) -> None:
    await need(bodies * size)


class _Request:
    """A request in flight. ask: sends it. asked: when it was last sent."""

    __slots__ = ("answer", "ask", "asked", "began", "cancelling", "need", "task", "twins")

    def __init__(
        self,
        ask: Callable[[Need | None], Awaitable[bytes]],
        loop: asyncio.AbstractEventLoop,
        need: Need | None,
    ) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.cancelling = task.cancelling()
        self.ask, self.need = ask, need
        self.began = self.asked = loop.time()
        self.twins: Sequence[asyncio.Task[None]] = ()
        self.answer: bytes | None = None
