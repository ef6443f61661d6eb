"""The feeder's side of the processes that download for it: hands out orders, takes in payloads."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import msgspec
from msgspec import msgpack

from datago_gpu.config import HttpConfig
from datago_gpu.feeder.arena import map_memory
from datago_gpu.feeder.download.wire import Orders, Results, Setup, as_exception
from datago_gpu.feeder.wire import frame, read
from datago_gpu.sources.failure import DOWN_AFTER, HttpFailure

__all__ = ["Crew"]


class Crew:
    """Gets payloads as a Hedged client does, by way of processes that have a share of the requests each.

    links: a socket to each process, and the memory shared with it, as descriptors. They are the Crew's from now on.
    Where one of them ends, so does this process: whoever started both knows why, and starts them again.
    """

    def __init__(self, config: HttpConfig, links: Sequence[tuple[int, int]]) -> None:
        share = -(-config.concurrent_downloads // len(links))
        setup = Setup(msgspec.structs.replace(config, concurrent_downloads=share))
        self._members = [_Member(channel, map_memory(memory), setup, self._settle) for channel, memory in links]
        self._doubtful: list[tuple[asyncio.Future[bytes], HttpFailure]] = []
        """Failures for which the server may be to blame. No process sees enough of it to tell: they wait for others."""
        self._failed_in_a_row = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the processes end."""
        for member in self._members:
            await member.close()

    def get(self, url: str, max_bytes: int) -> Awaitable[bytes]:
        """The whole body at `url`, of at most `max_bytes`. Raises HttpFailure."""
        member = self._members[0]
        for other in self._members:
            if len(other) < len(member):
                member = other
        return member.order(url, max_bytes)

    def _settle(self, arrived: int, failed: list[tuple[asyncio.Future[bytes], HttpFailure]]) -> None:
        """Say what a failure means, once that can be told: some payload came, many did not, or none is open."""
        if arrived:
            self._failed_in_a_row = 0
        for future, failure in failed:
            if failure.of_server and not failure.down:
                self._failed_in_a_row += failure.tries
                self._doubtful.append((future, failure))
            else:
                _fail(future, failure)
        down = self._failed_in_a_row >= DOWN_AFTER
        if self._doubtful and (arrived or down or not any(map(len, self._members))):
            for future, failure in self._doubtful:
                failure.down = down
                _fail(future, failure)
            self._doubtful.clear()


class _Member:
    """One of the processes. Its length is how many orders are open.

    settle: is told how many payloads have come, and which failed, whenever either is the case.
    """

    def __init__(
        self,
        channel: int,
        memory: mmap.mmap,
        setup: Setup,
        settle: Callable[[int, list[tuple[asyncio.Future[bytes], HttpFailure]]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._memory, self._settle = memory, settle
        self._channel = socket.socket(fileno=channel)
        self._channel.setblocking(False)
        self._open: dict[int, asyncio.Future[bytes]] = {}
        self._wanted: list[tuple[int, str, int]] = []
        self._taken: list[int] = []
        self._number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._following = self._loop.create_task(self._follow(setup))

    def __len__(self) -> int:
        return len(self._open)

    def order(self, url: str, max_bytes: int) -> asyncio.Future[bytes]:
        """Ask for a payload. Should the future be cancelled, it comes nevertheless, and is dropped."""
        self._soon()
        self._number += 1
        self._wanted.append((self._number, url, max_bytes))
        future = self._open[self._number] = self._loop.create_future()
        return future

    async def close(self) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()

    async def _follow(self, setup: Setup) -> None:
        decoder = msgpack.Decoder(Results)
        try:
            reader, self._writer = await asyncio.open_connection(sock=self._channel)
            self._writer.write(frame(setup))
            self._send()
            while True:
                self._take(decoder.decode(await read(reader)))
        except (asyncio.IncompleteReadError, ConnectionError):
            print("a process that downloads for it has ended", file=sys.stderr, flush=True)
        except Exception:  # an error of ours: nobody would hear of it in a task
            traceback.print_exc()
        os._exit(1)

    def _take(self, results: Results) -> None:
        for number, offset, size in results.arrived:
            self._soon()
            self._taken.append(number)
            future = self._open.pop(number)
            if not future.done():  # it is when it was cancelled
                future.set_result(self._memory[offset : offset + size])
        failed = [(self._open.pop(number), as_exception(failure)) for number, failure in results.failed]
        self._settle(len(results.arrived), failed)

    def _soon(self) -> None:
        """Write what is there, together with what else comes in this round of the loop."""
        if not (self._wanted or self._taken):
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        if self._writer is not None and (self._wanted or self._taken):
            self._writer.write(frame(Orders(self._wanted, self._taken)))
            self._wanted, self._taken = [], []


def _fail(future: asyncio.Future[bytes], failure: HttpFailure) -> None:
    if not future.done():
        future.set_exception(failure)
