"""HTTP GET with retries: limits on tries, time and size, and no incomplete body is accepted.

One HttpClient serves all requests of a feeder, for listings and payloads. Callers decide what a failure means for the
run (a skipped sample, the end of the source): they get an HttpFailure, whose text contains neither query strings
(signatures) nor header values (keys).

Bodies without a length (neither Content-Length nor chunked) end where the connection ends; a truncated one cannot be
detected here.

A request costs 6 to 8 us of Python over the 83 us of a bare `async with session.get(url) as r: await r.read()` (40 KB
from nginx on loopback, 16 at once, uvloop, median of nine alternating runs).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NoReturn, Self, TypeVar

import aiohttp
from aiohttp import hdrs
from msgspec import Struct
from yarl import URL

from datago_gpu.config import HttpConfig
from datago_gpu.config.host_policy import ForbiddenHost
from datago_gpu.redact import without_query
from datago_gpu.sources.http.body import Body
from datago_gpu.sources.http.deadlines import Deadline, Deadlines
from datago_gpu.sources.http.excerpt import Excerpt
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.range_body import RangeBody
from datago_gpu.sources.http.retry_after import RetryTimes
from datago_gpu.sources.http.session import Counters, Session
from datago_gpu.sources.http.streamed import StreamedBody
from datago_gpu.sources.local import exhaustion_error
from datago_gpu.sources.reference import Need

__all__ = ["Counters", "HttpClient", "HttpFailure", "Response", "without_query"]

T = TypeVar("T")
_FIRST_BACKOFF_S = 0.5
_WITH_A_RANGE = frozenset((200, 206, 304, 416))


class Response(Struct, frozen=True):
    """Holds a whole answer with status 200.

    body: decompressed. url: the final address, after redirects. link: the header Link, which names the next page.
    """

    body: bytes
    url: str
    link: str = ""


class HttpClient:
    """Gets bodies with retries. Must be made, used and closed within one running event loop, as its `Session`."""

    def __init__(self, config: HttpConfig) -> None:
        self._session = Session(config)
        self.counters = self._session.counters
        self.pausing: set[asyncio.Task[Any] | None] = set()
        """Tasks that wait before a retry, or for memory."""
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._retry_times = RetryTimes(config.max_retry_after_s, self._loop)
        self._deadlines = Deadlines(config, self._session.connector, self._loop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections. Requests in flight fail with reason "closed". May be called twice."""
        await self._session.close()

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        private: bool = False,
        compressed: bool = False,
        need: Need | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """Returns the whole body at `url`, of at most `max_bytes` (before and after decompression). Raises HttpFailure.

        headers: additional headers for this URL's own origin only; with them, a redirect to another origin is refused,
        or if `private`, followed without them.
        compressed: ask for a compressed body and decompress it. If false, a compressed body is refused.
        need: called with the size of the body, as far as known, before memory is allocated; no time limit runs while it
        waits.
        Retries after transport errors, 408, 425, 429, 5xx, timeouts and truncated bodies, which are resumed where they
        ended if the server supports it. Waits with jittered exponential backoff, or as long as Retry-After says (not
        counted as tries).
        """
        body = Body(max_bytes, compressed=compressed)
        kept = headers if private else None
        return self._patiently(
            url, lambda target, deadline: self._try(url, target, body, headers, deadline, need, kept)
        )

    def get_range(
        self,
        url: str,
        begin: int,
        end: int,
        *,
        tag: str = "",
        known: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Excerpt | None]:
        """Returns the bytes from `begin` up to `end` of the body at `url`, and no others are read. Raises HttpFailure.

        tag: of an earlier excerpt; reason "changed" if the body has another one now. known: the tag of a version that
        need not be sent; None is returned if the body still has it. headers: as for `stream`. Retries as `get` does.
        """
        wanted = RangeBody(begin, end, tag, known)
        return self._patiently(url, lambda target, deadline: self._try_range(target, wanted, headers, deadline))

    async def stream(
        self,
        url: str,
        sink: Callable[[bytes], Awaitable[None]],
        *,
        headers: Mapping[str, str] | None = None,
        begun: Callable[[int | None], None] | None = None,
    ) -> None:
        """Passes the body at `url` to `sink` as sent, one piece at a time as it arrives. Raises HttpFailure.

        headers: sent to this URL's own origin only; a redirect to another origin is followed without them. begun:
        called before the first byte with the number of bytes that the sink will get, None if unknown; the last call
        counts.
        Retries as `get` does, but without the total time limit. The time that the sink takes does not count. Reason
        "changed": the body could not be resumed, since it has changed on the server, or may have.
        """
        stream = StreamedBody(sink, begun)
        await self._patiently(url, lambda target, deadline: self._try_stream(target, stream, headers, deadline), stream)

    async def _patiently(
        self, url: str, attempt: Callable[[URL, Deadline], Awaitable[T]], stream: StreamedBody | None = None
    ) -> T:
        """Retries until an attempt succeeds or no further try is allowed. Raises HttpFailure."""
        target = self._session.routes.check(url)
        tries, told_s = 0, 0.0
        while True:
            if stream is not None and stream.has_advanced():
                tries, told_s = 0, 0.0
            tries, out_of_files = tries + 1, None
            told_s += await self._wait_as_told(target, told_s)
            try:
                with (deadline := Deadline(self._deadlines, target, endless=stream is not None)):
                    return await attempt(target, deadline)
                detail = deadline.expired + self._session.routes.proxy_note(deadline.url)
                failure = HttpFailure("timeout", detail, transient=True)
            except HttpFailure as known:
                failure = known.with_traceback(None)  # it would keep the body alive, in a cycle with this frame
            except ForbiddenHost as refusal:
                failure = HttpFailure("forbidden-host", str(refusal))
            except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
                failure = self._session.translate(error, deadline.url)
                out_of_files = exhaustion_error(getattr(error, "errno", None))
                error.__traceback__ = None  # as above: aiohttp's reader keeps its error
            if out_of_files:
                raise out_of_files
            # Raised outside `except`, so that its context is no foreign exception with a whole URL or a header.
            failure.url, failure.tries = failure.url or without_query(url), tries
            self._session.servers.note_failure(target, failure)
            wait_s = self._wait_s(tries)
            if failure.retry_after_s and told_s < self._config.max_retry_after_s:
                self._retry_times.note(target.raw_authority, failure.retry_after_s, failure.reason)
                tries, told_s = tries - 1, told_s + wait_s
            elif tries >= self._config.max_tries or not failure.transient:
                raise failure
            self.counters.retries += 1
            await self._pause(wait_s)

    async def _wait_as_told(self, url: URL, told_s: float) -> float:
        """Waits as long as the server asks for, within the limit. Returns the seconds."""
        seconds = self._retry_times.after_s(url.raw_authority, told_s)
        if seconds:
            await self._pause(seconds)
        return seconds

    async def _pause(self, seconds: float) -> None:
        task = asyncio.current_task(self._loop)
        self.pausing.add(task)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.pausing.discard(task)

    async def _try(
        self,
        given: str,
        url: URL,
        body: Body,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
        need: Need | None,
        private: Mapping[str, str] | None,
    ) -> Response:
        """Makes one try: a request, and the requests that its redirects lead to, without the `private` headers."""
        sent = {**(headers or {}), hdrs.ACCEPT_ENCODING: "gzip"} if body.compressed else headers
        response, reached = await self._session.follow(
            url,
            body.request_headers(sent),
            deadline,
            stay=headers is not None and private is None,
            private=private or (),
        )
        try:
            if response.status not in (200, 206):
                await self._refuse(response, body)
            content = await self._read_body(response, body, deadline, need)
            final = given if reached is url else str(reached)
            return Response(content, final, response.headers.get("Link", ""))
        finally:
            if not response.closed:  # it is closed when the whole answer has arrived
                response.release()

    async def _ask(self, need: Need, deadline: Deadline, size: int) -> None:
        """Waits for memory. The server is not blamed for that time."""
        task = asyncio.current_task(self._loop)
        self.pausing.add(task)
        try:
            with deadline.suspend():
                await need(size)
        finally:
            self.pausing.discard(task)

    async def _try_stream(
        self, url: URL, stream: StreamedBody, headers: Mapping[str, str] | None, deadline: Deadline
    ) -> None:
        response, _ = await self._session.follow(url, stream.request_headers(headers), deadline, private=headers or {})
        before = stream.size
        try:
            if response.status not in (200, 206):
                await self._refuse(response, stream)
            stream.begin(response)
            await stream.read(response.content, deadline)
        finally:
            self.counters.bytes += stream.size - before
            response.release()

    async def _try_range(
        self, url: URL, wanted: RangeBody, headers: Mapping[str, str] | None, deadline: Deadline
    ) -> Excerpt | None:
        response, _ = await self._session.follow(url, wanted.request_headers(headers), deadline, private=headers or {})
        try:
            if response.status not in _WITH_A_RANGE:
                raise await self._session.refusal(response)
            found = await wanted.read(response, deadline.progress)
            self.counters.bytes += len(found.content) if found else 0
            return found
        finally:
            response.release()  # closes the connection if more of the body is to come

    async def _read_body(
        self, response: aiohttp.ClientResponse, body: Body, deadline: Deadline, need: Need | None
    ) -> bytes:
        before = body.begin(response)
        try:
            await body.read(response.content, deadline.progress, need and partial(self._ask, need, deadline))
        finally:
            self.counters.bytes += body.size - before
        deadline.paused = True  # the answer is complete; only the total limit still runs
        return await body.content()

    async def _refuse(self, response: aiohttp.ClientResponse, body: Body | StreamedBody) -> NoReturn:
        """Raises the failure that a status other than 200 and redirects means."""
        status = response.status
        if status == 416 and body.size:  # the range does not exist: the body has changed
            body.restart()
            raise HttpFailure(
                "cut-short", "the server cannot continue the body where it broke off", status=status, transient=True
            )
        raise await self._session.refusal(response)

    def _wait_s(self, tries: int) -> float:
        longest = min(self._config.max_backoff_s, _FIRST_BACKOFF_S * 2.0 ** min(tries - 1, 30))
        return longest * random.uniform(0.5, 1.0)
