"""What the processes that feed a trainer have in common: their event loop, how they import a client, and their end."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datago_gpu.sources.http import HttpClient

__all__ = ["http_client_type", "leave_with", "run"]

PARENT_CHECK_S = 1.0


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, on the quickest loop that there is here."""
    # What is imported lives for ever, and the stream makes few cycles: looking for them took 6% of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform: asyncio's own loop is a third slower
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def http_client_type() -> type[HttpClient]:
    """Import it, which takes 0.1 s."""
    with _no_authorities():
        from datago_gpu.sources.http import HttpClient

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
