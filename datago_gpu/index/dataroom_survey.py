"""Lists the entries of a Dataroom, and looks at the first bytes of their images."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from datago_gpu.config import DataroomSource, LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.index.remote_look import Found, RemoteLooker, rows_of
from datago_gpu.index.survey import Task, Unit, row_of_skip
from datago_gpu.sources.dataroom.dataroom_source import Dataroom
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.reference import Position, SampleRef, Skipped

__all__ = ["DataroomSurvey"]


class DataroomSurvey:
    """The `Survey` of a Dataroom. A unit is an entry of its listing.

    The addresses in the rows are those of the listing, which may expire. An image is as it was if the server of its
    address says so; its row gets the new address all the same.
    """

    chunk = 1
    root = ""

    def __init__(self, config: LoaderConfig, http: HttpClient) -> None:
        source = config.source_config
        assert isinstance(source, DataroomSource)
        if not source.require_images:
            raise ConfigError("an index needs images: set source_config.require_images to true")
        self._source, self._classes = Dataroom(config, http), source.class_names
        self._looker = RemoteLooker(config, http.get_range)
        self.at_once = self._looker.at_once

    async def units(self) -> AsyncGenerator[Unit, None]:
        """See `Survey.units`."""
        async with aclosing(self._source.refs(Position())) as refs:
            async for ref in refs:
                yield Unit(ref.id, ref)

    async def look(self, tasks: Sequence[Task]) -> list[list[IndexRow]]:
        """See `Survey.look`."""
        return [await self._rows(unit.given, old) for unit, old in tasks]

    async def classes(self) -> list[str]:
        """See `Survey.classes`."""
        return self._classes

    def key(self, row: IndexRow) -> str:
        """See `Survey.key`."""
        return row.id

    async def _rows(self, ref: SampleRef | Skipped, old: list[IndexRow]) -> list[IndexRow]:
        if isinstance(ref, Skipped):
            return [row_of_skip(ref, url=ref.where)]
        known = old[0].digest or "" if old else ""
        return await rows_of(ref, old, self._look(ref, known))

    async def _look(self, ref: SampleRef, known: str) -> Found | None:
        """Looks at an image. Asks the Dataroom for a new address if the listed one has expired."""
        try:
            return await self._looker.look(ref.url, known)
        except HttpFailure as failure:
            if not failure.may_be_expired or ref.renew is None:
                raise
        ref.url = await ref.renew("")
        return await self._looker.look(ref.url, known)
