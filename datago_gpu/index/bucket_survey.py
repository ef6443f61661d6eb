"""Lists the images of a bucket, and looks at their first bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.feeder.caption import download_caption
from datago_gpu.index.look import Look
from datago_gpu.index.remote_look import Found, RemoteLooker
from datago_gpu.index.survey import Task, Unit, describe
from datago_gpu.sources.http.excerpt import Excerpt
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.listed_images import no_images
from datago_gpu.sources.listers import open_lister
from datago_gpu.sources.object_store.stores import Stores
from datago_gpu.sources.passed_over import PassedOver, log_passed_over
from datago_gpu.sources.reference import SampleRef

__all__ = ["BucketSurvey"]


class BucketSurvey:
    """The `Survey` of images below a prefix of object storage. A unit is an object."""

    chunk = 1
    root = ""

    def __init__(self, config: LoaderConfig) -> None:
        source = config.source_config
        assert isinstance(source, FileSource)
        self._lister, self._selection = open_lister(config), source.selection
        self._stores = Stores(config.http_config, source.storage_options)
        self._looker = RemoteLooker(config, partial(_from_store, self._stores))
        self.at_once = self._looker.at_once

    async def units(self) -> AsyncGenerator[Unit, None]:
        """See `Survey.units`."""
        lister, passed, found = self._lister, PassedOver(), False
        async with aclosing(lister.pages(b"", passed)) as pages:
            async for page in pages:
                for (name, extra), tag in zip(page.pairs, page.tags, strict=True):
                    found = True
                    yield Unit(name.decode(), (lister.ref(0, name, extra), tag))
        if not found:
            raise no_images(lister.root, lister.shown, self._selection, passed)
        log_passed_over(passed, lister.root, lister.shown)

    async def look(self, tasks: Sequence[Task]) -> list[list[IndexRow]]:
        """See `Survey.look`. An image is as it was if the listing has the tag that it and its caption had."""
        return [await self._rows(unit.given[0], unit.given[1], old) for unit, old in tasks]

    async def classes(self) -> list[str]:
        """See `Survey.classes`."""
        return await self._lister.classes() or []

    def key(self, row: IndexRow) -> str:
        """See `Survey.key`."""
        return row.id

    async def _rows(self, ref: SampleRef, tag: str, old: list[IndexRow]) -> list[IndexRow]:
        if old and tag and old[0].digest == tag:
            describe(old[0], ref)
            return old
        try:
            found = await self._looker.look(ref.url) or Found(Look())
        except HttpFailure as failure:
            found = Found.unreadable(failure)
        if ref.caption and not found.look.reason:
            await download_caption(ref, self._stores)
        row = found.row(ref)
        row.digest = tag if ref.caption else row.digest
        return [row]


async def _from_store(
    stores: Stores, url: str, begin: int, end: int, *, tag: str = "", known: str = ""
) -> Excerpt | None:
    assert not known  # the listing has told
    return await stores.get_range(url, begin, end, tag=tag)
