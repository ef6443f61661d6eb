"""The feeder process: lists, fetches, admits and groups samples, and sends them as batches.

Run by `feeder.spawn` as
`python -m datago_gpu.feeder SOCKET_FD ARENA_FD PARENT_PID [SOCKET_FD MEMORY_FD]... PLAN ENDS ROWS_FD`;
not for use by hand. The pairs lead to its download processes. PLAN and ENDS are for its decode processes (see
`decoding.fork_server.start`), or empty. ROWS_FD is a socket for rows of the program's own, or empty. The process ends
when the other end of its first socket or the parent process is gone.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import traceback
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from msgspec import msgpack

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import DatagoError
from datago_gpu.eventloop import catch_lost_errors, guarded, watched
from datago_gpu.feeder import wire
from datago_gpu.feeder.arena import map_memory
from datago_gpu.feeder.decoding.fork_server import ForkServer
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.notices import pass_on_logs
from datago_gpu.feeder.pack import Packer
from datago_gpu.feeder.payload_client import Remote, remotes_of
from datago_gpu.feeder.production import Production
from datago_gpu.feeder.runtime import connect, http_client, leave_with, run
from datago_gpu.redact import printable
from datago_gpu.sources import open_source
from datago_gpu.sources.user.row_wire import Form

if TYPE_CHECKING:
    from datago_gpu.feeder.feeder_trace import FeederTrace
    from datago_gpu.feeder.lockstep import LockstepProduction
    from datago_gpu.feeder.mix_fetch import MixFetcher
    from datago_gpu.sources.cache.cache_folder import CacheFolder
    from datago_gpu.sources.user.row_link import RowLink

__all__ = ["main"]

_Links = Sequence[tuple[int, int]]


def main(
    socket_descriptor: int,
    arena_descriptor: int,
    parent: int,
    *links: int,
    decoding: ForkServer | None = None,
    rows: int | None = None,
) -> None:
    """Serves the process at the other end of the socket until the stream is complete or that process is gone."""
    memory = map_memory(arena_descriptor)
    run(_serve(socket_descriptor, memory, parent, list(zip(links[::2], links[1::2], strict=True)), decoding, rows))


async def _serve(
    channel: int, memory: mmap.mmap, parent: int, links: _Links, decoding: ForkServer | None, rows: int | None = None
) -> None:
    guards = [watched(leave_with(parent))]
    if decoding:
        asyncio.get_running_loop().add_reader(decoding.alive, _leave_with_decoding, decoding)
    reader, writer = await connect(channel)
    start = msgpack.decode(await wire.read(reader), type=wire.Start)
    config = LoaderConfig.load(start.config)
    packer = Packer(reader, writer, memory, Limits.of(config))

    def fail(error: BaseException) -> None:
        packer.fail(*_words(error, config))

    def tell(notice: wire.Notice) -> None:
        packer.notice(wire.Notice(notice.level, printable(config.redacted(notice.text), lines=True)))

    catch_lost_errors(fail)
    guards.append(watched(_leave_with_the_socket(packer, decoding)))
    try:
        with pass_on_logs(start.log_level, tell):
            await guarded(_produce(config, start, packer, links, rows))
    except Exception as error:
        fail(error)
    finally:
        if decoding:
            await packer.wait_until_decoded()
            asyncio.get_running_loop().remove_reader(decoding.alive)
            decoding.stop()
        for guard in guards:
            guard.cancel()
        writer.close()
        await writer.wait_closed()


def _words(error: BaseException, config: LoaderConfig) -> tuple[str, str]:
    """Returns kind and message of the error that the trainer will raise."""
    if isinstance(error, DatagoError):
        return type(error).__name__, config.redacted(str(error))
    what = "is out of memory" if isinstance(error, MemoryError) else "failed"
    shown = "".join(traceback.format_exception(error))
    return "FeederError", config.redacted(f"the feeder process {what}:\n{shown}")


async def _produce(config: LoaderConfig, start: wire.Start, packer: Packer, links: _Links, rows: int | None) -> None:
    with _cache(config) as cache:
        async with (
            http_client(config) as http,
            remotes_of(config, http, links) as remotes,
            _link_to_rows(rows, start.rows, config) as link,
        ):
            # In lockstep, each rank lists all samples.
            listed = config.with_source(rank=0, world_size=1) if config.lockstep else config
            source, fetcher = open_source(listed, http, link, cache), _fetcher(config, remotes, cache)
            production = _production(config)(config, start.resume, source, fetcher, packer)
            beat = watched(packer.beat(production.counts, start.beat_s)) if start.beat_s else None
            try:
                await production.run()
            finally:
                if beat:
                    beat.cancel()
                fetcher.close()


def _cache(config: LoaderConfig) -> AbstractContextManager[CacheFolder | None]:
    if not config.cache_config.is_on:
        return nullcontext()
    from datago_gpu.sources.cache.cache_folder import CacheFolder  # other streams start sooner without this import

    return CacheFolder.of(config)


def _fetcher(
    config: LoaderConfig, remotes: dict[str, Remote | None], cache: CacheFolder | None
) -> Fetcher | MixFetcher:
    if config.source_type != "mix":
        return Fetcher(config, remotes[""], cache=cache)
    from datago_gpu.feeder.mix_fetch import MixFetcher  # other streams start sooner without this import

    return MixFetcher(config, remotes, cache)


def _link_to_rows(
    descriptor: int | None, form: Form | None, config: LoaderConfig
) -> AbstractAsyncContextManager[RowLink | None]:
    if descriptor is None or form is None:
        return nullcontext()
    # Other streams start sooner without these imports.
    from datago_gpu.sources.class_labels import ClassLabels
    from datago_gpu.sources.user.row_link import row_link

    of_rows = next(each for each in config.by_source().values() if each.source_type == "rows")
    return row_link(descriptor, form, ClassLabels.by(of_rows.source_config))


def _production(config: LoaderConfig) -> type[Production | LockstepProduction]:
    if not config.lockstep:
        return Production
    from datago_gpu.feeder.lockstep import LockstepProduction  # other streams start sooner without this import

    return LockstepProduction


class _Tracing:
    """Begins and ends traces, as the trainer asks for them."""

    _trace: FeederTrace | None = None

    def __call__(self, path: str) -> None:
        """Ends the trace under way, if there is one. Begins another one if there is a path."""
        if self._trace:
            self._trace.close()
            self._trace = None
        if path:
            from datago_gpu.feeder.feeder_trace import FeederTrace  # few streams are ever traced

            self._trace = FeederTrace(path)


async def _leave_with_the_socket(packer: Packer, decoding: ForkServer | None) -> None:
    await packer.listen(_Tracing())
    if decoding:
        decoding.stop()
    os._exit(0)


def _leave_with_decoding(decoding: ForkServer) -> None:
    """Ends this process because a decode process has ended; the fork server has said how."""
    os._exit(decoding.status())
