"""What all kinds of sources have in common when an index is made: they list units, and look at them.

A unit is the smallest thing that is looked at as a whole: a file, an entry of a Dataroom, a shard. The order of the
units is the order of the rows, and the same in each run over the same data.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from msgspec import Struct

from datago_gpu.config import LoaderConfig
from datago_gpu.index.look import Look
from datago_gpu.sources.attributes import NO_ATTRIBUTES
from datago_gpu.sources.index_form import IndexPart, IndexRow
from datago_gpu.sources.reference import SampleRef, Skipped, utf8_text

__all__ = [
    "Survey",
    "Task",
    "Unit",
    "attributes_text",
    "describe",
    "renewed",
    "row_of_place",
    "row_of_sample",
    "row_of_skip",
    "whole_source",
]


class Unit(Struct, frozen=True):
    """One unit of a listing. key: names the unit; the `key` of its rows is the same. given: what the survey that has
    listed the unit wants to know about the unit."""

    key: str
    given: Any


Task = tuple[Unit, list[IndexRow]]
"""A unit, and its rows in an earlier index; empty if it was in none."""


class Survey(Protocol):
    """Lists the units of a source, and looks at them.

    root: the folder in which the paths of rows begin; "" if there are none. at_once: how many calls of `look` may run
    at the same time. chunk: how many units a call should get.
    """

    root: str
    at_once: int
    chunk: int

    def units(self) -> AsyncGenerator[Unit, None]:
        """Yields all units. Raises SourceError if the source fails."""
        ...

    async def look(self, tasks: Sequence[Task]) -> list[list[IndexRow]]:
        """Returns the rows of each unit. Rows of an earlier index are returned if nothing has changed.

        Raises SourceError if the source fails permanently.
        """
        ...

    async def classes(self) -> list[str]:
        """Returns the names of the classes, in the order of their labels; none if there are none."""
        ...

    def key(self, row: IndexRow) -> str:
        """Returns the key of the unit that a row belongs to."""
        ...


def whole_source(config: LoaderConfig) -> LoaderConfig:
    """Returns the settings with which a source lists everything, in its own order."""
    return config.with_source(rank=0, world_size=1, random_sampling=False, where="")


def row_of_skip(skip: Skipped, *, path: str | None = None, url: str | None = None) -> IndexRow:
    """Returns the row for something that cannot be used."""
    return IndexRow(utf8_text(skip.id), path, url, reason=skip.reason, detail=skip.detail or None)


def row_of_place(ref: SampleRef) -> IndexRow:
    """Returns a row that says where the image of a sample is."""
    offset, length = ref.span or (None, None)
    return IndexRow("", _below_root(ref.path), ref.url or None, offset, length)


def renewed(ref: SampleRef, old: list[IndexRow]) -> list[IndexRow]:
    """Writes what the sample's source says now into the one row of an earlier index, as the image has not changed.
    Returns the same list."""
    row = row_of_place(ref)
    row.bytes, row.digest = old[0].bytes, old[0].digest
    old[0] = row_of_sample(ref, Look.of_row(old[0]), row)
    return old


def row_of_sample(ref: SampleRef, look: Look, row: IndexRow) -> IndexRow:
    """Fills a row, which says where the image is, with what is known about the sample."""
    info = ref.info
    row.id, row.source, row.tags = utf8_text(info.id), info.source or None, info.tags
    row.attributes, row.label = attributes_text(info.attributes), info.label
    look.fill(row)
    row.parts = [
        IndexPart(part.name, part.kind, _below_root(part.path), part.url or None, *(part.span or ()))
        for part in ref.parts
        if part.path or part.url
    ]
    return row


def describe(row: IndexRow, ref: SampleRef) -> None:
    """Writes into a row what the listing says of the image. A row has the text of a caption file already."""
    row.label = ref.info.label
    if not ref.caption:
        row.attributes = attributes_text(ref.info.attributes)


def attributes_text(attributes: bytes) -> str | None:
    """Returns attributes as a row has them."""
    return None if attributes == NO_ATTRIBUTES else attributes.decode()


def _below_root(path: str) -> str | None:
    """Returns the absolute path of a sample's file as its row has it: sources with such paths have the root "/"."""
    return path.removeprefix("/") or None
