"""The cache of one process: finds entries and keeps new ones, on threads, and counts what was found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from msgspec import Struct

from datago_gpu.config import LoaderConfig
from datago_gpu.eventloop import started
from datago_gpu.sources.cache.cache_counts import CacheCounts
from datago_gpu.sources.cache.cache_entry import Entry, head_bytes, size_on_disk
from datago_gpu.sources.cache.entry_files import EntryFiles, NewEntry, Unusable
from datago_gpu.sources.cache.payload_name import PayloadName
from datago_gpu.sources.cache.shared_room import SharedRoom
from datago_gpu.sources.cache.thread_lots import ThreadLots
from datago_gpu.sources.reference import Need

if TYPE_CHECKING:
    from datago_gpu.sources.cache.payload_cache import PayloadCache

__all__ = ["FORM_FOLDER", "CacheFolder", "Miss"]

log = logging.getLogger("datago_gpu")

T = TypeVar("T")

FORM_FOLDER = "datago-gpu-1"
"""The folder below `cache_config.path` that holds the entries. A later form of the entries will have another name."""
_READERS, _WRITERS = 16, 8
"""Threads. Writing has its own, so that a disk that is slow to write holds up no reading."""
_COUNT_S = 5.0
"""Seconds that downloads wait for the count of the entries. Until the count is known, nothing is added."""
_TRIED_AGAIN = 256
"""Of the payloads that were too large for the room left, every so many is tried, since room may have been freed."""


class Miss(Struct, frozen=True):
    """Says that a payload is not in the cache, and names it for `CacheFolder.keep`."""

    name: PayloadName
    replaces: bool = False
    """Whether there is an entry, which cannot be used."""


class CacheFolder:
    """Keeps payloads below the folder `path`. Made, used and closed in one running event loop.

    Nothing here ever fails: without a cache that works, payloads are downloaded.
    """

    def __init__(self, path: str, capacity: int) -> None:
        self._path, self._capacity = path, capacity
        self._files = EntryFiles(f"{path}/{FORM_FOLDER}")
        self._loop = asyncio.get_running_loop()
        self._readers, self._writers = ThreadLots(_READERS, "datago-cache"), ThreadLots(_WRITERS, "datago-cache-new")
        self._opening: asyncio.Task[SharedRoom] | None = None
        self._waits_until: float | None = None
        self._stopped = self._warned_of_damage = False
        self._refused = 0
        self.counts = CacheCounts()

    @classmethod
    def of(cls, config: LoaderConfig) -> Self:
        """Returns the cache that the settings ask for."""
        settings = config.cache_config
        return cls(config.absolute(settings.path), int((settings.size_gb or 0) * 2**30))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of_source(self, config: LoaderConfig) -> PayloadCache:
        """Returns the cache as one source sees it. config: of that source alone."""
        from datago_gpu.sources.cache.payload_cache import PayloadCache  # which needs this module

        return PayloadCache(self, config)

    def close(self) -> None:
        """Releases the threads without waiting for what they read and write."""
        self._readers.close()
        self._writers.close()

    async def find(self, name: PayloadName, most: int, at_once: int, need: Need | None) -> bytes | Miss:
        """Returns the payload of that name, of at most `most` bytes.

        at_once: bytes that may be allocated without asking. need: asks for more.
        """
        try:
            found = await self._readers(partial(self._files.read, name, most, at_once if need else most))
            if isinstance(found, Entry):
                if need:
                    await need(found.length)
                found = await self._readers(partial(self._files.content, found))
        except Unusable as problem:
            return self.note_unusable(name, problem)
        if found is None:
            return self._missed(name)
        self.counts.hits += 1
        self.counts.bytes += len(found)
        return found

    async def open(self, name: PayloadName) -> Entry | Miss:
        """Returns the open entry of that name."""
        try:
            found = await self._readers(partial(self._files.open, name))
        except Unusable as problem:
            return self.note_unusable(name, problem)
        return self._missed(name) if found is None else found

    def block(self, entry: Entry, number: int) -> asyncio.Future[bytes]:
        """Returns a block of an open entry. Raises Damaged, OSError."""
        return self._readers(partial(entry.block, number))

    def note_unusable(self, name: PayloadName, problem: Unusable) -> Miss:
        """Counts an entry that cannot be used as a miss. Warns of the first damaged one."""
        if problem.damaged and not self._warned_of_damage:
            self._warned_of_damage = True
            log.warning(
                "the cache in %s has a damaged entry, as a crash or a failing disk leaves it: what it held is "
                "downloaded again, and so are further ones",
                self._path,
            )
        return self._missed(name, replaces=True)

    def _missed(self, name: PayloadName, *, replaces: bool = False) -> Miss:
        self.counts.misses += 1
        return Miss(name, replaces)

    async def keep(self, miss: Miss, payload: bytes) -> None:
        """Adds a payload, if there is room for it."""
        write = partial(self._files.write, name=miss.name, payload=payload, replaces=miss.replaces)
        await self._in_room(miss, len(payload), write)

    async def begin(self, miss: Miss, length: int) -> NewEntry | None:
        """Begins an entry of that many bytes; None if there is no room for it, or it is there."""
        begin = partial(self._files.begin, name=miss.name, length=length, replaces=miss.replaces)
        return await self._in_room(miss, length, begin)

    async def _in_room(self, miss: Miss, length: int, work: Callable[[SharedRoom], T]) -> T | None:
        """Returns the result of `work` with the room for a payload; None if the payload cannot be kept."""
        room = await self._room_for(miss, length)
        if room is None:
            return None
        try:
            return await self._writers(partial(work, room))
        except OSError as error:
            self.note_failure(error)
            return None

    def add(self, new: NewEntry, block: bytes) -> asyncio.Future[None]:
        """Writes the next block of an entry. Raises OSError."""
        return self._writers(partial(new.add, block))

    def finish(self, new: NewEntry) -> asyncio.Future[None]:
        """Completes an entry. Raises OSError."""
        return self._writers(new.finish)

    def drop(self, new: NewEntry) -> None:
        """Removes an entry that is not finished, without waiting."""
        self._writers(new.drop)

    def note_failure(self, error: OSError) -> None:
        """Adds nothing more after an error of the disk. After the folder was deleted, begins anew."""
        if isinstance(error, FileNotFoundError):
            self._opening = None
        else:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        if not self._stopped:
            self._stopped = True
            log.warning(
                "the cache in %s cannot be written (%s): nothing more is added to it in this run. Provide space and "
                "the permission to write, or lower cache_config.size_gb; datago-gpu doctor CONFIG looks at it",
                self._path,
                error.strerror or error,
            )

    async def _room_for(self, miss: Miss, length: int) -> SharedRoom | None:
        """Returns where to take room for a payload; None if the payload cannot be kept."""
        if self._stopped or not length or not (miss.replaces or self._may_fit(length)):
            return None
        if self._opening is None:
            self._opening = started(self._open_room())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody asks
        if not self._opening.done():
            if self._waits_until is None:
                self._waits_until = self._loop.time() + _COUNT_S
            await asyncio.wait([self._opening], timeout=max(0.0, self._waits_until - self._loop.time()))
        opening = self._opening
        if opening is None or not opening.done():
            return None
        try:
            return opening.result()
        except OSError as error:
            self._stop(error)
            return None

    async def _open_room(self) -> SharedRoom:
        return await self._writers(partial(SharedRoom, self._files.folder, self._capacity))

    def _may_fit(self, length: int) -> bool:
        if size_on_disk(head_bytes(length) + length) < self._files.too_large:
            return True
        self._refused += 1
        return self._refused % _TRIED_AGAIN == 0
