"""Lists the rows of tables, and looks at the images that they name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from datago_gpu.config import LoaderConfig, TableSource
from datago_gpu.errors import ConfigError
from datago_gpu.index.local_files import FilesJob
from datago_gpu.index.look import Look
from datago_gpu.index.ranges import AnyRange
from datago_gpu.index.reader_pool import ReaderPool
from datago_gpu.index.remote_look import RemoteLooker, rows_of
from datago_gpu.index.survey import Task, Unit, renewed, row_of_sample, row_of_skip
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.object_store.stores import is_stored
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.table.table_source import Table

__all__ = ["TableSurvey"]


class TableSurvey:
    """The `Survey` of tables whose images lie elsewhere. A unit is a row. Raises ConfigError if a row holds bytes.

    A server is asked whether an image has changed, and the file system for local ones; objects of a bucket are looked
    at again.
    """

    chunk = 64
    root = "/"

    def __init__(self, config: LoaderConfig, http: HttpClient, pool: ReaderPool) -> None:
        source = config.source_config
        assert isinstance(source, TableSource)
        self._source, self._pool = source, pool
        self._table = Table(config, http)
        self._looker = RemoteLooker(config, AnyRange(config, http).get)
        self.at_once = max(pool.at_once, -(-self._looker.at_once // self.chunk))

    async def units(self) -> AsyncGenerator[Unit, None]:
        """See `Survey.units`."""
        async with aclosing(self._table.refs(Position())) as refs:
            async for ref in refs:
                if isinstance(ref, SampleRef) and _holds_bytes(ref):
                    raise ConfigError(
                        f"{self._source.shown_path} holds the bytes of its images, for which an index has no place: "
                        'load the table itself, with source_type "table". For lockstep, add columns of the widths and '
                        "heights to it (docs/training/lockstep.md)"
                    )
                yield Unit(ref.id, ref)

    async def look(self, tasks: Sequence[Task]) -> list[list[IndexRow]]:
        """See `Survey.look`."""
        here = [isinstance(unit.given, SampleRef) and bool(unit.given.path) for unit, _ in tasks]
        refs = [(unit.given, old) for unit, old in tasks]
        near, far = await asyncio.gather(
            self._local([each for each, local in zip(refs, here, strict=True) if local]),
            self._others([each for each, local in zip(refs, here, strict=True) if not local]),
        )
        local_rows, other_rows = iter(near), iter(far)
        return [next(local_rows if local else other_rows) for local in here]

    async def classes(self) -> list[str]:
        """See `Survey.classes`."""
        return await self._table.classes()

    def key(self, row: IndexRow) -> str:
        """See `Survey.key`."""
        return row.id

    async def _local(self, refs: list[tuple[SampleRef, list[IndexRow]]]) -> list[list[IndexRow]]:
        names = [os.fsencode(ref.path.removeprefix("/")) for ref, _ in refs]
        known = [old[0].digest if old else None for _, old in refs]
        job = FilesJob(b"/", names, known, [ref.span for ref, _ in refs])
        answers = (await self._pool.run(job)).rows or () if refs else ()
        rows = []
        for (ref, old), answer in zip(refs, answers, strict=True):
            rows.append(renewed(ref, old) if answer is None else [row_of_sample(ref, Look.of_row(answer), answer)])
        return rows

    async def _others(self, refs: list[tuple[SampleRef | Skipped, list[IndexRow]]]) -> list[list[IndexRow]]:
        return await asyncio.gather(*(self._other(ref, old) for ref, old in refs))

    async def _other(self, ref: SampleRef | Skipped, old: list[IndexRow]) -> list[IndexRow]:
        if isinstance(ref, Skipped):
            return [row_of_skip(ref)]
        known = old[0].digest or "" if old and not is_stored(ref.url) else ""
        return await rows_of(ref, old, self._looker.look(ref.url, known, ref.span))


def _holds_bytes(ref: SampleRef) -> bool:
    return ref.payload is not None or any(part.payload is not None for part in ref.parts)
