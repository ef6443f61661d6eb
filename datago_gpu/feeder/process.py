"""The feeder process: lists, fetches, admits and groups samples, and sends them as batches.

Run as `python -m datago_gpu.feeder SOCKET_FD ARENA_FD PARENT_PID` by `feeder.client`; not for use by hand. It lives no
longer than the other end of its socket, or that process.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from msgspec import msgpack

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import DatagoError
from datago_gpu.feeder import wire
from datago_gpu.feeder.arena import map_memory
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.pack import Packer
from datago_gpu.feeder.production import Production
from datago_gpu.sources import open_source

if TYPE_CHECKING:
    from datago_gpu.sources.http import HttpClient

__all__ = ["main"]

PARENT_CHECK_S = 1.0


def main(socket_descriptor: int, arena_descriptor: int, parent: int) -> None:
    """Serve the process at the other end of the socket until the stream is complete or that process is gone."""
    # What is imported lives for ever, and the stream makes few cycles: looking for them took 6% of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    memory = map_memory(arena_descriptor)
    channel = socket.socket(fileno=socket_descriptor)
    channel.setblocking(False)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(channel, memory, parent))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform: asyncio's own loop is a third slower
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(channel: socket.socket, memory: mmap.mmap, parent: int) -> None:
    guards = [asyncio.create_task(_leave_with(parent))]
    reader, writer = await asyncio.open_connection(sock=channel)
    start = msgpack.decode(await wire.read(reader), type=wire.Start)
    config = LoaderConfig.load(start.config)
    packer = Packer(reader, writer, memory)
    guards.append(asyncio.create_task(_leave_with_the_socket(packer)))
    try:
        await _produce(config, start.resume, packer)
    except DatagoError as error:
        await packer.fail(type(error).__name__, config.redacted(str(error)))
    except Exception as error:
        what = "is out of memory" if isinstance(error, MemoryError) else "failed"
        await packer.fail("FeederError", config.redacted(f"the feeder process {what}:\n{traceback.format_exc()}"))
    for guard in guards:
        guard.cancel()
    writer.close()
    await writer.wait_closed()


async def _produce(config: LoaderConfig, resume: wire.Resume, packer: Packer) -> None:
    async with _client(config) as http:
        source = open_source(config, http)
        fetcher = Fetcher(config, http)
        try:
            await Production(config, resume, source, fetcher, packer).run()
        finally:
            fetcher.close()
            await source.close()


def _client(config: LoaderConfig) -> AbstractAsyncContextManager[HttpClient | None]:
    """Local files need none, and start 0.1 s sooner without aiohttp."""
    if config.source_type == "file":
        return nullcontext()
    with _no_authorities():
        from datago_gpu.sources.http import HttpClient

    return HttpClient(config.http_config)


@contextmanager
def _no_authorities() -> Iterator[None]:
    """aiohttp reads the certificates of all authorities as it is imported, which takes a fifth of this process's start.

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


async def _leave_with_the_socket(packer: Packer) -> None:
    await packer.listen()
    os._exit(0)


async def _leave_with(parent: int) -> None:
    """The socket may outlive the trainer in a process that it forked."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(PARENT_CHECK_S)
    os._exit(0)
