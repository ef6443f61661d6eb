"""Rows of a program's own, and the source that the feeder makes of them, without a feeder."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from datago_gpu import LoaderConfig, Row
from datago_gpu.loader.given_rows import given_rows
from datago_gpu.loader.row_thread import RowThread
from datago_gpu.sources import open_source
from datago_gpu.sources.class_labels import ClassLabels
from datago_gpu.sources.reference import Position, SampleRef, Skipped, Source
from datago_gpu.sources.user.row_link import row_link
from datago_gpu.sources.user.row_wire import Form

JOIN_S = 20


def own_config(seed: int = 0, **source: Any) -> LoaderConfig:
    """Small settings for rows. source: settings of the source."""
    settings = {"http_config": {"max_payload_mb": 1}, "arena_mb": 2, "seed": seed}
    return LoaderConfig.load_for_rows({**settings, "source_type": "rows", "source_config": source}).resolve()


def rows_of(count: int) -> list[Row]:
    """Rows whose images are no images, each of another length."""
    return [Row(f"r{number}", b"x" * (number % 7 + 1)) for number in range(count)]


@asynccontextmanager
async def linked(source: object, config: LoaderConfig) -> AsyncIterator[tuple[Source, RowThread]]:
    """Connects the thread of the trainer's process with the source of the feeder, which here are in one process."""
    thread = RowThread(given_rows(source), config)
    ours, theirs = socket.socketpair()
    with ours:
        thread.attach(ours)
        thread.start()
        try:
            async with row_link(theirs.detach(), Form(thread.rows.count), ClassLabels.by(config.source_config)) as link:
                yield open_source(config, None, link), thread
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.stop()
    thread.join(JOIN_S)
    assert not thread.is_alive()


async def read_from(
    source: Source,
    start: Position = Position(),  # noqa: B008 - it is a constant
    most: int | None = None,
    into: list[SampleRef | Skipped] | None = None,
) -> list[SampleRef | Skipped]:
    """Returns the samples of a listing, or the first `most` of them. into: gets the samples, also before an error."""
    found = [] if into is None else into
    async with aclosing(source.refs(start)) as refs:
        async for ref in refs:
            found.append(ref)
            if len(found) == most:
                break
    return found
