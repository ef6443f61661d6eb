"""The feeder's side of its download processes: sends orders and receives payloads."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self

import msgspec
from msgspec import msgpack

from datago_gpu.config import HttpConfig
from datago_gpu.eventloop import is_ending, watched
from datago_gpu.feeder.arena import map_memory
from datago_gpu.feeder.download.health import UndecidedFailures
from datago_gpu.feeder.download.transfers import Order, Orders, Results, Setup, as_exception
from datago_gpu.feeder.runtime import connect
from datago_gpu.feeder.wire import post, read
from datago_gpu.sources.reference import Need, Span

__all__ = ["DownloadPool"]

log = logging.getLogger("datago_gpu")

_PROXY = "proxy"
"""Stands for the server if a proxy cannot be reached. Any payload may have come by way of that proxy."""


class DownloadPool:
    """Downloads payloads as a HedgedClient does, through processes that each get a share of the requests.

    links: a socket to each process, and the memory shared with it, as descriptors. The pool owns them from now on.
    If a download process exits, the feeder exits too; the trainer knows the cause and restarts all of them.
    """

    def __init__(self, config: HttpConfig, links: Sequence[tuple[int, int]]) -> None:
        share = -(-config.concurrent_downloads // len(links))
        setup = Setup(msgspec.structs.replace(config, concurrent_downloads=share), log.getEffectiveLevel())
        self._undecided = UndecidedFailures()
        self._members = [
            _Member(number, channel, map_memory(memory), setup, self._undecided, self._settle)
            for number, (channel, memory) in enumerate(links)
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the sockets, so that the processes end."""
        for member in self._members:
            await member.close()

    def get(
        self,
        url: str,
        max_bytes: int,
        need: Need | None = None,
        span: Span | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[bytes]:
        """Returns the body at `url`, or the bytes `span` of it, of at most `max_bytes`. Raises HttpFailure.

        need: called with the size of a body that is larger than FREE_BYTES. headers: sent to this URL's origin only.
        """
        member = self._members[0]
        for other in self._members:
            if len(other) < len(member):
                member = other
        return member.order(url, max_bytes, need, span, headers)

    def _settle(self) -> None:
        if self._undecided and not any(map(len, self._members)):
            self._undecided.settle()


class _Member:
    """Represents one download process. Its length is the number of open orders.

    settle: called after each message of the process.
    """

    def __init__(
        self,
        number: int,
        channel: int,
        memory: mmap.mmap,
        setup: Setup,
        undecided: UndecidedFailures,
        settle: Callable[[], None],
    ) -> None:
        self._number, self._memory, self._undecided, self._settle = number, memory, undecided, settle
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, tuple[str, asyncio.Future[bytes], Need | None]] = {}
        """Number of an order -> its server, the future for its payload, and the function that asks for memory."""
        self._wanted: list[Order] = []
        self._taken: list[int] = []
        self._granted: list[int] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._orders = 0
        self._writer: asyncio.StreamWriter | None = None
        self._following = self._loop.create_task(self._follow(channel, setup))

    def __len__(self) -> int:
        return len(self._open)

    def order(
        self, url: str, max_bytes: int, need: Need | None, span: Span | None, headers: Mapping[str, str] | None
    ) -> asyncio.Future[bytes]:
        """Orders a payload. If the future is cancelled, the payload arrives nevertheless and is dropped."""
        self._schedule_send()
        self._orders += 1
        self._wanted.append(Order(self._orders, url, max_bytes, span, dict(headers) if headers else None))
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._open[self._orders] = url.partition("//")[2].partition("/")[0], future, need
        return future

    async def close(self) -> None:
        for task in (self._following, *self._asking):
            task.cancel()
        await asyncio.gather(self._following, *self._asking, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()

    async def _follow(self, channel: int, setup: Setup) -> None:
        decoder = msgpack.Decoder(Results)
        try:
            reader, self._writer = await connect(channel)
            post(self._writer, setup)
            self._send()
            while True:
                self._take(decoder.decode(await read(reader)))
        except (asyncio.IncompleteReadError, ConnectionError):
            print("a download process has ended", file=sys.stderr, flush=True)
        except BaseException as error:  # an error of ours: inside a task it would go unnoticed
            if is_ending(error):
                raise
            traceback.print_exc()
        os._exit(1)

    def _take(self, results: Results) -> None:
        now = self._loop.time()
        for order, offset, size in results.arrived:
            self._schedule_send()
            self._taken.append(order)
            server, future, _ = self._open.pop(order)
            self._undecided.note_answer(server, now)
            self._undecided.note_answer(_PROXY, now)
            if not future.done():  # a cancelled future is done
                future.set_result(self._memory[offset : offset + size])
        for order, failure in results.failed:
            server, future, _ = self._open.pop(order)
            error = as_exception(failure)
            self._undecided.note_failure(_PROXY if error.proxy else server, now, self._number, future, error)
        for order, size in results.asking:
            task = watched(self._ask(order, size))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        for notice in results.notices:
            log.log(notice.level, "%s", notice.text)
        self._settle()

    async def _ask(self, order: int, size: int) -> None:
        """Waits for memory for a payload, then grants it; grants it at once if nobody waits for the payload."""
        _, future, need = self._open.get(order, ("", None, None))
        if future is not None and need is not None:
            asking = asyncio.ensure_future(need(size))
            await asyncio.wait((asking, future), return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            (outcome,) = await asyncio.gather(asking, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome
        self._schedule_send()
        self._granted.append(order)

    def _schedule_send(self) -> None:
        """Schedules one write for all messages of this turn of the event loop."""
        if not self._has_news:
            self._loop.call_soon(self._send)

    @property
    def _has_news(self) -> bool:
        return bool(self._wanted or self._taken or self._granted)

    def _send(self) -> None:
        if self._writer is not None and self._has_news:
            post(self._writer, Orders(self._wanted, self._taken, self._granted))
            self._wanted, self._taken, self._granted = [], [], []
