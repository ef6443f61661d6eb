"""A process that downloads payloads for a feeder, into memory that both share.

Run by `feeder.spawn` as `python -m datago_gpu.feeder.download SOCKET_FD MEMORY_FD PARENT_PID`; not for use by hand. The
process ends when the other end of its socket or the parent process is gone.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import traceback
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from msgspec import msgpack

from datago_gpu.eventloop import catch_lost_errors, guarded
from datago_gpu.feeder.arena import Allocator, map_memory
from datago_gpu.feeder.download.transfers import Failure, Order, Orders, Results, Setup, as_failure
from datago_gpu.feeder.fifo import Fifo
from datago_gpu.feeder.notices import pass_on_logs
from datago_gpu.feeder.prefetch_budget import FREE_BYTES
from datago_gpu.feeder.runtime import connect, http_client_type, leave_with, run
from datago_gpu.feeder.wire import Notice, post, read
from datago_gpu.sources.http.failure import HttpFailure

if TYPE_CHECKING:
    from datago_gpu.sources.http.hedge import HedgedClient
    from datago_gpu.sources.http.http_client import HttpClient

__all__ = ["main"]


def main(socket_descriptor: int, memory_descriptor: int, parent: int) -> None:
    """Serves the feeder at the other end of the socket until it is gone."""
    memory = map_memory(memory_descriptor)
    run(_serve(socket_descriptor, memory, parent, http_client_type()))


async def _serve(channel: int, memory: mmap.mmap, parent: int, client: type[HttpClient]) -> None:
    catch_lost_errors(_leave)
    reader, writer = await connect(channel)
    async with asyncio.TaskGroup() as tasks:  # an error in one task ends all
        tasks.create_task(leave_with(parent))
        try:
            setup = msgpack.decode(await read(reader), type=Setup)
            async with client(setup.http) as http:
                from datago_gpu.sources.http.hedge import HedgedClient

                downloader = Downloader(HedgedClient(http, setup.http), memory, writer)
                for _ in range(setup.http.concurrent_downloads):
                    tasks.create_task(downloader.work())
                orders = msgpack.Decoder(Orders)
                with pass_on_logs(setup.log_level, downloader.notice):
                    while True:
                        downloader.take(orders.decode(await read(reader)))
        except (asyncio.IncompleteReadError, ConnectionError):  # the feeder is gone
            os._exit(0)


def _leave(error: BaseException) -> None:
    """Ends this process and writes the error to its standard error."""
    traceback.print_exception(error)
    os._exit(1)


class Downloader:
    """Accepts orders, downloads their payloads and reports results, many at a time."""

    def __init__(self, remote: HedgedClient, memory: mmap.mmap, writer: asyncio.StreamWriter) -> None:
        self._remote, self._memory, self._writer = remote, memory, writer
        self._loop = asyncio.get_running_loop()
        self._wanted: Fifo[Order] = Fifo(self._loop)
        self._allocator, self._freed = Allocator(len(memory)), asyncio.Event()
        self._arrived: list[tuple[int, int, int]] = []
        self._failed: list[tuple[int, Failure]] = []
        self._asking: list[tuple[int, int]] = []
        self._notices: list[Notice] = []
        self._grants: dict[int, deque[asyncio.Future[None]]] = {}
        """Number of an order -> the future that waits for its memory, in the order of the requests."""

    def take(self, orders: Orders) -> None:
        """Queues the wanted payloads and frees the memory of those that the feeder has taken."""
        for number in orders.taken:
            self._allocator.give_back(number)
        if orders.taken:
            self._freed.set()
        for number in orders.granted:
            self._grant(number)
        for order in orders.wanted:
            self._wanted.put(order)

    def notice(self, notice: Notice) -> None:
        """Passes a log message of this process on."""
        self._tell()
        self._notices.append(notice)

    async def work(self) -> None:
        """Downloads ordered payloads one after the other."""
        while True:
            order = self._wanted.take() if self._wanted else await self._wanted.get()
            number, need = order.number, partial(self._need, order.number)
            try:
                body = await guarded(self._remote.get(order.url, order.max_bytes, need, order.span, order.headers))
            except HttpFailure as error:
                self._tell()
                self._failed.append((number, as_failure(error)))
                continue
            offset = self._allocator.take(number, len(body))
            while offset is None:
                self._freed.clear()
                await self._freed.wait()
                offset = self._allocator.take(number, len(body))
            self._memory[offset : offset + len(body)] = body
            self._tell()
            self._arrived.append((number, offset, len(body)))
            del body  # otherwise the payload stays in memory while this worker waits

    async def _need(self, number: int, size: int) -> None:
        """Asks the feeder for memory if a payload is larger than FREE_BYTES. Returns once it is granted."""
        if size <= FREE_BYTES:
            return
        self._tell()
        self._asking.append((number, size))
        granted = self._loop.create_future()
        self._grants.setdefault(number, deque()).append(granted)
        await granted

    def _grant(self, number: int) -> None:
        waiting = self._grants[number]
        granted = waiting.popleft()
        if not waiting:
            del self._grants[number]
        if not granted.done():  # a cancelled future is done: another request for the same payload was quicker
            granted.set_result(None)

    def _tell(self) -> None:
        """Schedules one message for all results of this turn of the event loop."""
        if not (self._arrived or self._failed or self._asking or self._notices):
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        results = Results(self._arrived, self._failed, self._asking, self._notices)
        self._arrived, self._failed, self._asking, self._notices = [], [], [], []
        post(self._writer, results)
