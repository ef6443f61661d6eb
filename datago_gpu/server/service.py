"""DataroomServer: a folder of images as a Dataroom, on a thread of this process or in the foreground."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Self

from aiohttp import web

from datago_gpu import eventloop
from datago_gpu.config.local_paths import openable, plain_path
from datago_gpu.errors import ConfigError
from datago_gpu.server.app import Api, payload_application
from datago_gpu.server.catalogue import Index
from datago_gpu.server.connection import IDLE_S, Connection, Places
from datago_gpu.server.folder import Folder, ScanStopped
from datago_gpu.server.media import PREFIX, UrlSigner

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 0.2
_BACKLOG = 1024
_SCAN_SHARE = 0.05
"""At most this share of the time goes into looking for changes."""


class DataroomServer:
    """Serves the images below `root` with the HTTP API of a Dataroom; docs/sources/dataroom.md has more.

        with DataroomServer("/photos", port=0) as server:
            ...                                          # server.url, server.key

    root: a folder; one that is missing or cannot be listed is a ConfigError.
    host: the address to bind to. Anyone who reaches it and has the key can read the images.
    port: the API's port; 0 picks a free one. A busy one is a ConfigError.
    payload_port: None serves the payloads on the API's port; a number, or 0 for a free one, on a port of their own, as
        another origin that refuses an Authorization header, like an object store.
    key: the token that clients send; None makes one of 40 hexadecimal digits.
    url_ttl_s: how long the URL of a payload is valid, in seconds. URLs do not outlive the server.
    watch_interval_s: how often to look for changes below `root`, in seconds; None never looks but in `refresh()`.
    idle_s: after so many seconds without a whole request, or a byte taken of an answer, a connection is closed.
    max_connections: a further connection is closed at once. None: 1024, or half of the files that the process may open.
    hidden: also serves hidden images, as those in `.ipynb_checkpoints` or `.Trash`.

    Indexing happens in `start()`, or on entering the context, and reads every file once. The folder is not written to.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        payload_port: int | None = None,
        key: str | None = None,
        url_ttl_s: float = 86400.0,
        watch_interval_s: float | None = 2.0,
        idle_s: float = IDLE_S,
        max_connections: int | None = None,
        hidden: bool = False,
    ) -> None:
        _check_settings(port, payload_port, key, url_ttl_s, watch_interval_s, idle_s)
        if max_connections is not None and max_connections < 1:
            raise ConfigError(f"max_connections must be at least 1, or None, got {max_connections}")
        self.root = os.path.abspath(openable(plain_path(os.fspath(root), "")))
        self.key = key if key is not None else secrets.token_hex(20)
        self._folder = Folder(self.root, hidden=hidden)
        self._index = Index()
        self._signer = UrlSigner(url_ttl_s)
        self._host, self._port, self._payload_port = host, port, payload_port
        self._watch_interval_s = watch_interval_s
        self._idle_s, self._places = idle_s, Places(max_connections)
        self._refreshing = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return f"DataroomServer({self.root!r}, images={len(self)})"

    def __len__(self) -> int:
        return len(self._index)

    @property
    def url(self) -> str:
        """The API's base URL, with the last slash: what DATAROOM_API_URL is to be. Known once started."""
        return f"{self._origin(0)}/api/"

    @property
    def payload_url(self) -> str:
        """What the URLs of the payloads start with. Known once started."""
        return self._origin(-1) + PREFIX

    def _origin(self, number: int) -> str:
        if not self._sockets:
            raise RuntimeError("the server was not started")
        name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{name}]' if ':' in name else name}:{self._sockets[number].getsockname()[1]}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Indexes the folder and returns when requests are answered, by a thread that `close()` ends."""
        self._prepare()
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run_on_thread, args=[ready], name="dataroom-server", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self.close()
            raise

    def serve_forever(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Indexes the folder, calls `on_ready` when requests are answered, and returns on SIGINT or SIGTERM.

        For the main thread of a process."""
        try:
            self._prepare()
            eventloop.run(self._serve(on_ready, signals=(signal.SIGINT, signal.SIGTERM)))
        finally:
            self.close()

    def refresh(self) -> int:
        """Takes in the files that are new, changed or gone, now, and returns the number of images."""
        with self._refreshing:
            records = self._folder.scan()
            if records is not None:
                self._index.replace(records)
        return len(self)

    def close(self) -> None:
        """Stops answering and frees the ports, within a second. May be called twice, and by any thread."""
        self._folder.stop()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it is over already
                loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for listener in self._sockets:
            listener.close()
        if not self._closed:
            self._closed = True
            self._index.close()

    def _prepare(self) -> None:
        if self._closed or self._sockets:
            raise RuntimeError("a DataroomServer runs once; make another")
        try:
            self._bind()
            self.refresh()
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        self._sockets.append(_listener(self._host, self._port, self._idle_s))
        if self._payload_port is not None:
            self._sockets.append(_listener(self._host, self._payload_port, self._idle_s))

    def _run_on_thread(self, ready: Future[None]) -> None:
        try:
            eventloop.run(self._serve(lambda: ready.set_result(None)))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, on_ready: Callable[[], None], signals: tuple[signal.Signals, ...] = ()) -> None:
        self._loop = asyncio.get_running_loop()
        for number in signals:
            self._loop.add_signal_handler(number, self._stop.set)
        # One thread: the index answers one search at a time anyway.
        with ThreadPoolExecutor(1, thread_name_prefix="dataroom-index") as executor:
            runners = [web.AppRunner(app, shutdown_timeout=_SHUTDOWN_S) for app in self._sites(executor)]
            watcher = asyncio.create_task(self._watch())
            listening: list[asyncio.Server] = []
            try:
                for runner, listener in zip(runners, self._sockets, strict=True):
                    await runner.setup()
                    assert runner.server is not None
                    connection = partial(Connection, runner.server, self._loop, self._places, self._idle_s)
                    listening.append(await self._loop.create_server(connection, sock=listener, backlog=_BACKLOG))
                on_ready()
                await self._stop.wait()
            finally:
                self._folder.stop()
                watcher.cancel()
                for server in listening:
                    server.close()
                await asyncio.gather(*(runner.cleanup() for runner in runners))

    def _sites(self, executor: ThreadPoolExecutor) -> list[web.Application]:
        separate = len(self._sockets) > 1
        payload_port = self._sockets[1].getsockname()[1] if separate else None
        api = Api(self._index, self._signer, self.key, payload_port=payload_port, executor=executor)
        return [api.application(), payload_application(self._index, self._signer)][: len(self._sockets)]

    async def _watch(self) -> None:
        took_s = 0.0
        while self._watch_interval_s is not None:
            await asyncio.sleep(max(self._watch_interval_s, took_s / _SCAN_SHARE))
            started = time.monotonic()
            try:
                await asyncio.to_thread(self.refresh)
            except ScanStopped:
                return
            except Exception:  # the old index goes on serving; the next look may fare better
                logger.exception("cannot look for changes in %r", self.root)
            took_s = time.monotonic() - started


def _check_settings(
    port: int,
    payload_port: int | None,
    key: str | None,
    url_ttl_s: float,
    watch_interval_s: float | None,
    idle_s: float,
) -> None:
    for name, number in (("port", port), ("payload_port", payload_port)):
        if number is not None and not 0 <= number <= 65535:
            raise ConfigError(f"{name} must be 0 to 65535, got {number}")
    if key is not None and not (key.isascii() and key.isprintable() and key and " " not in key):
        raise ConfigError("key must be one word of printable ASCII characters")
    if not 0 < url_ttl_s <= 1e9:
        raise ConfigError(f"url_ttl_s must be more than 0 and at most 1e9 seconds, got {url_ttl_s}")
    if watch_interval_s is not None and not watch_interval_s > 0:
        raise ConfigError(f"watch_interval_s must be more than 0 seconds, or None, got {watch_interval_s}")
    if not 0 < idle_s <= 1e6:
        raise ConfigError(f"idle_s must be more than 0 and at most 1e6 seconds, got {idle_s}")


def _listener(host: str, port: int, idle_s: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; its connections inherit it: a client that reads nothing loses them
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(idle_s * 1000))
    return listener
