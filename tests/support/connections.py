"""A test's own TCP server, on a thread of its own: one task for each connection, and all of them closed at the end.

asyncio.start_server is not used, because it leaves a connection open that is accepted while the server is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Self

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Connections:
    """Calls `serve` in a task of its own for each connection, and closes the connection when the task ends.

    Use it in the event loop that is running.
    """

    def __init__(self, serve: Serve, host: str, port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        self._serve, self._tls = serve, tls
        self._loop = asyncio.get_running_loop()
        self._open: dict[asyncio.Task[None], socket.socket] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=100)
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        self._loop.add_reader(self._listening, self._accept)

    async def close(self) -> None:
        """Accepts no further connections, cancels all tasks and closes all connections."""
        self._loop.remove_reader(self._listening)
        self._listening.close()
        tasks, connections = list(self._open), list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task, connection in zip(tasks, connections, strict=True):
            if self._open.pop(task, None):  # the task was cancelled before it began
                connection.close()
        async with asyncio.timeout(5):
            # A transport closes its socket one turn of the loop later.
            while any(connection.fileno() >= 0 for connection in connections):  # noqa: ASYNC110
                await asyncio.sleep(0)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection.setblocking(False)
        # As asyncio.start_server does. Otherwise answers in several pieces wait up to 40 ms each.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._run(connection))
        self._open[task] = connection

    async def _run(self, connection: socket.socket) -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            with contextlib.suppress(OSError):  # ssl.SSLError is one
                transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
                await self._talk(reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))
        finally:
            del self._open[me]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        finally:
            writer.transport.abort()


class ThreadedServer:
    """A context manager. A subclass says what to do with a connection: `_serve`.

    `url` is `http://HOST:PORT`, without a slash at the end, or https with `tls`; it and `port` are set once it runs.
    """

    url: str
    port: int

    def __init__(self, host: str, port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        self.host, self._wanted_port, self._tls = host, port, tls
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name=type(self).__name__, daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10), f"{type(self).__name__} did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), f"{type(self).__name__} did not stop"

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections = Connections(self._serve, self.host, self._wanted_port, tls=self._tls)
        self.port = connections.port
        self.url = f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"
        self._listening.set()
        await self._stop.wait()
        await connections.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError
