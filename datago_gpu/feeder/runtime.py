"""Helpers shared by the feeder and its download processes: run, connect, import a client, end."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from datago_gpu import eventloop

if TYPE_CHECKING:
    from datago_gpu.config import LoaderConfig
    from datago_gpu.sources.http.http_client import HttpClient

__all__ = ["connect", "http_client", "http_client_type", "leave_with", "run"]

PARENT_CHECK_S = 1.0

_MOST_FILES_OF_MACOS = 10_240
"""What macOS takes where it says that there is no hard limit."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs the coroutine to its end."""
    # Imported objects are never freed, and the stream makes few cycles: garbage collection took 6% of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    _raise_file_limit()
    eventloop.run(main)


def _raise_file_limit() -> None:
    """Raises the limit of open files to the hard limit: each download needs one; many shells set 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, _MOST_FILES_OF_MACOS) if soft != hard else ():
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


async def connect(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Returns reader and writer of a socket that another process has made; they own the socket from now on."""
    return await asyncio.open_connection(sock=socket.socket(fileno=descriptor))


def http_client(config: LoaderConfig) -> AbstractAsyncContextManager[Any]:
    """Returns the HttpClient of a run, for `async with`. Without a source that needs the client, yields None, and
    imports nothing."""
    return http_client_type()(config.http_config) if config.needs_http else nullcontext()


def http_client_type() -> type[HttpClient]:
    """Imports HttpClient, which takes 0.1 s, and returns it."""
    with _no_authorities():
        from datago_gpu.sources.http.http_client import HttpClient

    return HttpClient


@contextmanager
def _no_authorities() -> Iterator[None]:
    """Keeps aiohttp from reading all CA certificates when it is imported, which takes a fifth of a feeder's start.

    HttpClient reads them itself when needed, and does not use the empty context that aiohttp made.
    """
    given = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ.update(dict.fromkeys(given, os.devnull))
    try:
        yield
    finally:
        for name, value in given.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def leave_with(parent: int) -> None:
    """Ends this process when the parent ends. The parent's socket may live on in a forked child."""
    while os.getppid() == parent:  # noqa: ASYNC110 - no event reports it
        await asyncio.sleep(PARENT_CHECK_S)
    os._exit(0)
