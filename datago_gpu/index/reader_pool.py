"""Runs jobs in processes that only read local files, so that an index is made on all CPUs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import suppress
from typing import Self

import msgspec
from msgspec import msgpack

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import DatagoError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.feeder.runtime import connect
from datago_gpu.feeder.wire import post, read
from datago_gpu.index.reader import Answer, Job, Reader, ReaderSetup
from datago_gpu.interpreter import command

__all__ = ["ReaderPool"]

_END_S = 5.0


class ReaderPool:
    """Has up to `processes` processes, or with 0 reads on a thread of this process.

    Starts a process when a job finds none that is free, so an index of remote files starts none. The processes end with
    the pool, and with this process, however it ends.
    """

    def __init__(self, config: LoaderConfig, processes: int) -> None:
        self._config, self._processes = config, processes
        self._free: asyncio.LifoQueue[_Member] = asyncio.LifoQueue()
        self._members: list[_Member] = []
        self._own = None if processes else Reader(config)
        self.at_once = max(1, 2 * processes)
        """How many jobs keep all processes busy."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self._members:
            await member.close()

    async def run(self, job: Job) -> Answer:
        """Returns the result of a job. Raises DatagoError if its process has ended."""
        if self._own:
            return await call_in_thread(None, self._own.answer, job)
        member = await self._take()
        answer = await member.run(job)
        self._free.put_nowait(member)
        return answer

    async def _take(self) -> _Member:
        """Returns a free process, or a new one as long as there are fewer than allowed."""
        if self._free.empty() and len(self._members) < self._processes:
            member = _Member(self._config)
            self._members.append(member)
            await member.connect()
            return member
        return await self._free.get()


class _Member:
    """One process, and the socket to it."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter | None = None

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self._decoder = msgpack.Decoder(Answer)
        self._socket, theirs = socket.socketpair()
        with theirs:
            line = command("datago_gpu.index.reader", str(theirs.fileno()), str(os.getpid()))
            self._process = subprocess.Popen(line, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    async def connect(self) -> None:
        """Sends the settings."""
        self._reader, self._writer = await connect(self._socket.detach())
        post(self._writer, ReaderSetup(msgspec.to_builtins(self._config)))

    async def run(self, job: Job) -> Answer:
        """Returns the result of a job."""
        assert self._writer
        post(self._writer, job)
        try:
            return self._decoder.decode(await read(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            status = await call_in_thread(None, self._process.wait)
        raise DatagoError(f"a process that reads files has ended with status {status}; the same command goes on")

    async def close(self) -> None:
        """Ends the process, and waits for its end."""
        self._socket.close()
        if self._writer:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
        self._process.kill()  # it only reads
        await call_in_thread(None, self._process.wait, _END_S)
