"""Writes a shard to the cache while it streams by, and reads it from there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

from datago_gpu.sources.cache.cache_entry import BLOCK, Damaged, Entry
from datago_gpu.sources.cache.cache_folder import CacheFolder, Miss
from datago_gpu.sources.cache.entry_files import NewEntry, Unusable
from datago_gpu.sources.cache.payload_name import PayloadName
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.webdataset.archive_start import is_archive_start

__all__ = ["ShardCopy", "replay"]

Sink = Callable[[bytes], Awaitable[None]]


class ShardCopy:
    """A sink that passes a shard on, and keeps it if the whole of it arrives and begins as an archive does.

    Holds up to two blocks more than the shard's own pipe: one that is written, and one that is collected.
    """

    def __init__(self, folder: CacheFolder, miss: Miss, sink: Sink) -> None:
        self._folder, self._miss, self._sink = folder, miss, sink
        self._length: int | None = None
        self._new: NewEntry | None = None
        self._collected, self._written = bytearray(), 0
        self._writing: asyncio.Future[None] | None = None
        self._keeps = True

    def note_length(self, length: int | None) -> None:
        """Takes the number of bytes of the shard, which must come before the first byte."""
        self._length = length

    async def __call__(self, piece: bytes) -> None:
        if self._keeps:
            self._collected += piece
            while self._keeps and len(self._collected) >= BLOCK:
                await self._write(bytes(self._collected[:BLOCK]))
                del self._collected[:BLOCK]
        await self._sink(piece)

    async def finish(self) -> None:
        """Keeps the shard, of which everything has arrived."""
        if self._keeps and self._collected:
            await self._write(bytes(self._collected))
        if self._keeps and self._new and await self._is_written():
            try:
                await self._folder.finish(self._new)
            except OSError as error:
                self._folder.note_failure(error)

    def close(self) -> None:
        """Removes what was written of a shard that was not kept."""
        self._give_up()

    async def _write(self, block: bytes) -> None:
        """Begins to write a block when the one before it is written."""
        if not self._written:
            if self._length is not None and is_archive_start(block):
                self._new = await self._folder.begin(self._miss, self._length)
            self._keeps = self._new is not None
        self._written += len(block)
        if self._length is not None and self._written > self._length:  # the server has sent more than it said
            self._give_up()
        if self._new and await self._is_written():
            self._writing = self._folder.add(self._new, block)

    async def _is_written(self) -> bool:
        """Waits for the last block. Returns False if it could not be written."""
        if self._writing is None:
            return True
        try:
            await self._writing
        except OSError as error:
            self._folder.note_failure(error)
            self._give_up()
            return False
        self._writing = None
        return True

    def _give_up(self) -> None:
        self._keeps = False
        self._collected.clear()
        if self._new is not None:
            self._folder.drop(self._new)
            self._new = None
        if self._writing is not None:
            self._writing.cancel()  # nobody asks for its error
            self._writing = None


async def replay(folder: CacheFolder, entry: Entry, name: PayloadName, sink: Sink) -> tuple[Miss, Sink] | None:
    """Passes a shard of the cache to the sink. If a block is damaged, returns how to go on: the Miss, and a sink for
    the whole shard, which leaves out what was passed."""
    for number in range(len(entry.sums)):
        try:
            block = await folder.block(entry, number)
        except (Damaged, OSError):
            return folder.note_unusable(name, Unusable(damaged=True)), _Rest(entry.sums[:number], sink)
        folder.counts.bytes += len(block)
        await sink(block)
    folder.counts.hits += 1
    return None


class _Rest:
    """A sink that leaves out the first blocks of a shard, if they are the blocks with these checksums.

    Raises HttpFailure, reason "changed", if they are not.
    """

    def __init__(self, sums: Sequence[int], sink: Sink) -> None:
        self._sums, self._sink = list(reversed(sums)), sink
        self._missing, self._sum = BLOCK, 0

    async def __call__(self, piece: bytes) -> None:
        view = memoryview(piece)
        while self._sums and view:
            known = view[: self._missing]
            self._sum, self._missing, view = crc32(known, self._sum), self._missing - len(known), view[len(known) :]
            if not self._missing:
                if self._sum != self._sums.pop():
                    raise HttpFailure("changed", "the shard has changed since it was put into the cache")
                self._missing, self._sum = BLOCK, 0
        if view:
            await self._sink(bytes(view))
