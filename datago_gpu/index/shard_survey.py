"""Lists shards and reads their samples: local ones in processes, the others as they are downloaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

from datago_gpu.config import LoaderConfig, WebDatasetSource
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread, started
from datago_gpu.index.local_files import ShardJob, local_text
from datago_gpu.index.look import Looker
from datago_gpu.index.members import Members, ShardPlace, compressed_row, lost, read_stream
from datago_gpu.index.reader_pool import ReaderPool
from datago_gpu.index.survey import Task, Unit
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.local import Patience
from datago_gpu.sources.object_store.stores import Stores, is_stored
from datago_gpu.sources.webdataset.budget import Pipe
from datago_gpu.sources.webdataset.compression import compression_of
from datago_gpu.sources.webdataset.shard_list import Shard, authorization, list_shards
from datago_gpu.sources.webdataset.shard_reader import Supply, pump
from datago_gpu.sources.webdataset.tar import BadShard
from datago_gpu.units import MiB

__all__ = ["ShardSurvey"]

_HEAD_BYTES = 512
_PIPE_BYTES = 4 * MiB


class ShardSurvey:
    """The `Survey` of shards. A unit is a shard."""

    chunk = 1

    def __init__(
        self,
        config: LoaderConfig,
        http: HttpClient,
        pool: ReaderPool,
        shards: list[Shard],
        stores: Callable[[], Stores],
    ) -> None:
        """shards: all of them, in listed order. stores: returns the one client for object storage."""
        source = config.source_config
        assert isinstance(source, WebDatasetSource)
        self._config, self._source, self._http, self._pool = config, source, http, pool
        self._shards, self._stores, self._classes = shards, stores, source.class_names
        self._patience, self._looker = Patience(config.http_config), Looker(config, near=True)
        self._slots = asyncio.Semaphore(source.concurrent_downloads)
        self._threads = ThreadPoolExecutor(source.concurrent_downloads, "datago-shard")
        local = [os.path.dirname(shard.address) for shard in shards if _is_local(shard)]
        self.root = os.path.commonpath(local) if local else ""
        self.at_once = 2 * max(source.concurrent_downloads, pool.at_once)

    @classmethod
    async def open(cls, config: LoaderConfig, http: HttpClient, pool: ReaderPool) -> ShardSurvey:
        """Lists the shards. Raises SourceError."""
        source = config.source_config
        assert isinstance(source, WebDatasetSource)
        stores = cache(partial(Stores, config.http_config, source.storage_options))
        return cls(config, http, pool, await list_shards(config, source, http, stores), stores)

    def close(self) -> None:
        """Releases the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def units(self) -> AsyncGenerator[Unit, None]:
        """See `Survey.units`."""
        for shard in self._shards:
            yield Unit(self._path(shard) or _without_signature(shard.address), shard)

    async def look(self, tasks: Sequence[Task]) -> list[list[IndexRow]]:
        """See `Survey.look`."""
        return [await self._rows(unit.given, old) for unit, old in tasks]

    async def classes(self) -> list[str]:
        """See `Survey.classes`."""
        return self._classes

    def key(self, row: IndexRow) -> str:
        """See `Survey.key`."""
        return row.path or _without_signature(row.url or "")

    def _path(self, shard: Shard) -> str | None:
        """Returns the path of a local shard below the root, as its rows have it."""
        return local_text(os.path.relpath(shard.address, self.root)) if _is_local(shard) else None

    async def _rows(self, shard: Shard, old: list[IndexRow]) -> list[IndexRow]:
        known = next((row.digest for row in old if row.digest), None)
        if _is_local(shard):
            job = ShardJob(os.fsencode(shard.address), self._path(shard), known)
            answer = await self._pool.run(job)
            rows = None if answer.rows is None else [row for row in answer.rows if row is not None]
        else:
            async with self._slots:
                rows = await self._download(shard, known)
        url = None if _is_local(shard) else shard.address
        if rows is None:
            return _at(url, old)
        return rows or [IndexRow("", self._path(shard), url, reason="no-samples")]

    async def _download(self, shard: Shard, known: str | None) -> list[IndexRow] | None:
        """Returns the rows of a remote shard; None if it has the known digest. Raises SourceError."""
        place, rows = ShardPlace(None, shard.address, shard.shown), list[IndexRow]()
        try:
            digest, kind = await self._begin(shard, known)
            if digest is None:
                return None
            if kind:
                return [compressed_row(place, kind)]
            await self._stream(shard, Members(self._config, place, self._looker, digest or None), rows)
        except (BadShard, HttpFailure, OSError) as error:
            if isinstance(error, HttpFailure) and error.down:
                raise SourceError(self._source.redacted(f"{error}; {error.verdict}")) from error
            skip = lost(error)
            row = place.row(skip)
            row.detail = self._source.redacted(skip.detail) or None
            rows.append(row)
        return rows

    async def _begin(self, shard: Shard, known: str | None) -> tuple[str | None, str]:
        """Returns the digest of a shard, or None if it is the known one, and how the shard is compressed."""
        if is_stored(shard.address):
            head = await self._stores().get_range(shard.address, 0, _HEAD_BYTES)
            if known and head.tag == known:
                return None, ""
        else:
            found = await self._http.get_range(
                shard.address, 0, _HEAD_BYTES, known=known or "", headers=self._headers(shard)
            )
            if found is None:
                return None, ""
            head = found
        return head.tag, compression_of(head.content)

    async def _stream(self, shard: Shard, members: Members, rows: list[IndexRow]) -> None:
        """Downloads a shard, and reads it on a thread as it arrives."""
        pipe = Pipe(asyncio.get_running_loop(), _PIPE_BYTES, lambda: None)
        pumping = started(pump(self._supply(shard), pipe))
        try:
            await call_in_thread(self._threads, read_stream, pipe, members, self._patience, rows)
        finally:
            pipe.give_up()
            pumping.cancel()
            await asyncio.gather(pumping, return_exceptions=True)

    def _supply(self, shard: Shard) -> Supply:
        if is_stored(shard.address):
            return partial(self._stores().stream, shard.address)
        return partial(self._http.stream, shard.address, headers=self._headers(shard))

    def _headers(self, shard: Shard) -> dict[str, str] | None:
        return authorization(self._source.auth_token, shard.login) if shard.own else None


def _at(url: str | None, rows: list[IndexRow]) -> list[IndexRow]:
    """Returns the same rows with the current address of their shard, which may have got another signature."""
    for row in rows:
        row.url = url
        for part in row.parts:
            part.url = url
    return rows


def _without_signature(address: str) -> str:
    return address.partition("?")[0]


def _is_local(shard: Shard) -> bool:
    return "://" not in shard.address
