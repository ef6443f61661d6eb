"""What the processes that feed a trainer have in common: how they run, connect, import a client, and end."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from datago_gpu import eventloop

if TYPE_CHECKING:
    from datago_gpu.sources.http.client import HttpClient

__all__ = ["connected", "http_client_type", "leave_with", "run"]

PARENT_CHECK_S = 1.0


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end."""
    # What is imported lives for ever, and the stream makes few cycles: looking for them took 6% of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    _raise_file_limit()
    eventloop.run(main)


def _raise_file_limit() -> None:
    """Let this process open as many files as it may: each download takes one, and many shells set the limit to 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def connected(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Both directions of a socket that another process has made; it is theirs from now on."""
    return await asyncio.open_connection(sock=socket.socket(fileno=descriptor))


def http_client_type() -> type[HttpClient]:
    """Import it, which takes 0.1 s."""
    with _no_authorities():
        from datago_gpu.sources.http.client import HttpClient

    return HttpClient


@contextmanager
def _no_authorities() -> Iterator[None]:
    """aiohttp reads the certificates of all authorities as it is imported, which takes a fifth of a feeder's start.

    HttpClient does so itself where it has to, and does not use what aiohttp made of none.
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
    """End this process with that one, whose socket may live on in a process that it forked."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(PARENT_CHECK_S)
    os._exit(0)
