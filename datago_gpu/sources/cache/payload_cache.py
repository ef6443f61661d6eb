"""The cache as one source sees it: payloads and shards by their addresses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from datago_gpu.config import LoaderConfig
from datago_gpu.config.settings import names_in
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.sources.cache.cache_entry import Entry
from datago_gpu.sources.cache.cache_folder import CacheFolder, Miss
from datago_gpu.sources.cache.payload_name import PayloadName, canonical_address, payload_name
from datago_gpu.sources.cache.shard_copy import ShardCopy, replay
from datago_gpu.sources.reference import Need, Span

__all__ = ["PayloadCache", "ShardStream"]

Sink = Callable[[bytes], Awaitable[None]]


class ShardStream(Protocol):
    """Passes the bytes of a shard to the sink. Calls `begun` with their number, None if unknown, before the first."""

    def __call__(self, sink: Sink, *, begun: Callable[[int | None], None]) -> Awaitable[None]: ...


class PayloadCache:
    """Finds and keeps the payloads of one source in the folder of all.

    An address means the same bytes for ever, unless its listing gives a version (`version`): then an entry of another
    version is replaced.
    """

    def __init__(self, folder: CacheFolder, config: LoaderConfig) -> None:
        self._folder, self._source = folder, config.source_config
        self._ignored = frozenset(name.lower() for name in names_in(config.cache_config.ignored_parameters))
        self._stores: dict[str, str] = {}

    async def find(
        self, url: str, span: Span | None, version: str, most: int, at_once: int, need: Need | None = None
    ) -> bytes | Miss:
        """Returns the payload at `url`, or the bytes `span` of it, of at most `most` bytes.

        at_once, need: see `CacheFolder.find`.
        """
        return await self._folder.find(self._name(url, span, version), most, at_once, need)

    async def keep(self, miss: Miss, payload: bytes) -> None:
        """Adds a payload that `find` did not find, if there is room for it."""
        await self._folder.keep(miss, payload)

    async def stream(self, url: str, version: str, download: ShardStream, sink: Sink) -> None:
        """Passes the shard at `url` to the sink, from the cache or by `download`. Raises what `download` raises."""
        name = self._name(url, None, version)
        found = await self._folder.open(name)
        if isinstance(found, Entry):
            rest = await replay(self._folder, found, name, sink)
            if rest is None:
                return
            found, sink = rest
        copy = ShardCopy(self._folder, found, sink)
        try:
            await download(copy, begun=copy.note_length)
            await copy.finish()
        finally:
            copy.close()

    def _name(self, url: str, span: Span | None, version: str) -> PayloadName:
        if url.startswith(STORE_SCHEMES):
            return payload_name(f"{url}\n{self._store_of(url)}", span, version)
        return payload_name(canonical_address(url, self._ignored), span, version)

    def _store_of(self, url: str) -> str:
        """Returns what says, beside the address, which store is meant: buckets of two servers may have one name."""
        scheme = url.partition("://")[0]
        if scheme not in self._stores:
            from datago_gpu.sources.object_store.options import account_of, endpoint_of  # most sources have no store

            options: dict[str, str] = getattr(self._source, "storage_options", {})  # a Dataroom has none
            self._stores[scheme] = f"{endpoint_of(url, options)}\n{account_of(url, options)}"
        return self._stores[scheme]
