"""Lists the images of a local folder, and has processes look at them."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.index.local_files import FilesJob
from datago_gpu.index.reader_pool import ReaderPool
from datago_gpu.index.survey import Task, Unit, describe, row_of_skip
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.listed_images import no_images
from datago_gpu.sources.listers import open_lister
from datago_gpu.sources.passed_over import PassedOver, log_passed_over
from datago_gpu.sources.reference import Skipped, utf8_text

__all__ = ["FolderSurvey"]


class FolderSurvey:
    """The `Survey` of a local folder. A unit is a file, or a folder that cannot be read."""

    chunk = 256

    def __init__(self, config: LoaderConfig, pool: ReaderPool) -> None:
        source = config.source_config
        assert isinstance(source, FileSource)
        self._lister, self._selection, self._pool = open_lister(config), source.selection, pool
        self.root = self._lister.root
        self.at_once = pool.at_once

    async def units(self) -> AsyncGenerator[Unit, None]:
        """See `Survey.units`."""
        lister, passed, found = self._lister, PassedOver(), False
        async with aclosing(lister.pages(b"", passed)) as pages:
            async for page in pages:
                if page.skipped:
                    yield Unit(self._below(page.skipped.where), page.skipped)
                for name, extra in page.pairs:
                    found = True
                    yield Unit(utf8_text(os.fsdecode(name)), (name, lister.ref(0, name, extra)))
        if not found:
            raise no_images(lister.root, lister.shown, self._selection, passed)
        log_passed_over(passed, lister.root, lister.shown)

    async def look(self, tasks: Sequence[Task]) -> list[list[IndexRow]]:
        """See `Survey.look`."""
        files = [(*unit.given, old) for unit, old in tasks if not isinstance(unit.given, Skipped)]
        job = FilesJob(
            os.fsencode(self.root),
            [name for name, _, _ in files],
            [old[0].digest if old else None for _, _, old in files],
            captions=[os.fsencode(ref.caption) for _, ref, _ in files] if self._selection.captions else [],
        )
        answers = iter((await self._pool.run(job)).rows or ())
        rows = []
        for unit, old in tasks:
            if isinstance(unit.given, Skipped):
                rows.append([row_of_skip(unit.given, path=unit.key)])
            else:
                answer = next(answers)
                found = old if answer is None else [answer]
                describe(found[0], unit.given[1])
                rows.append(found)
        return rows

    async def classes(self) -> list[str]:
        """See `Survey.classes`."""
        return await self._lister.classes() or []

    def key(self, row: IndexRow) -> str:
        """See `Survey.key`."""
        return row.id or row.path or ""

    def _below(self, path: str) -> str:
        return path.removeprefix(os.path.join(self.root, "")) or "."
