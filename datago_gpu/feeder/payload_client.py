"""Chooses what downloads payloads: this process, download processes, or a client for object storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from datago_gpu.config import FileSource, HttpConfig, LoaderConfig, TableSource, UserSource
from datago_gpu.feeder.runtime import http_client_type
from datago_gpu.sources.reference import Need, Span

if TYPE_CHECKING:
    # Importing aiohttp takes 0.1 s: local files do without.
    from datago_gpu.feeder.download.pool import DownloadPool
    from datago_gpu.sources.any_remote import HttpGet
    from datago_gpu.sources.http.hedge import HedgedClient
    from datago_gpu.sources.http.http_client import HttpClient

__all__ = ["Remote", "remote_of", "remotes_of"]


class Remote(Protocol):
    """Downloads payloads, any number at once."""

    def get(self, url: str, max_bytes: int, need: Need | None = None, span: Span | None = None) -> Awaitable[bytes]:
        """Returns the body at `url`, or the bytes `span` of it, of at most `max_bytes`. Raises HttpFailure.

        need: called with the size of the body, before memory is allocated.
        """
        ...


class _LateClient:
    """Makes the client of this process when it is first asked for a body: most rows of a program need none.

    http: the client, if there is one already. stack: ends the client that is made here.
    """

    def __init__(self, config: HttpConfig, http: HttpClient | None, stack: AsyncExitStack) -> None:
        self._config, self._http, self._stack = config, http, stack
        self._making = asyncio.Lock()
        self._client: HedgedClient | None = None

    async def get(
        self, url: str, max_bytes: int, need: Need | None, span: Span | None, headers: Mapping[str, str] | None
    ) -> bytes:
        """See `HedgedClient.get`."""
        if self._client is None:
            async with self._making:
                self._client = self._client or await self._make()
        return await self._client.get(url, max_bytes, need, span, headers)

    async def _make(self) -> HedgedClient:
        if self._http is None:
            self._http = await self._stack.enter_async_context(http_client_type()(self._config))
        from datago_gpu.sources.http.hedge import HedgedClient  # imports aiohttp, for which the line above prepares

        return HedgedClient(self._http, self._config)


@asynccontextmanager
async def remotes_of(
    config: LoaderConfig, http: HttpClient | None, links: Sequence[tuple[int, int]]
) -> AsyncIterator[dict[str, Remote | None]]:
    """Yields for each source of a mix the client that its settings ask for; without a mix, "" -> the one client.

    http, links: as for `remote_of`.
    """
    async with AsyncExitStack() as stack:
        remotes = {}
        for name, each in config.by_source().items():
            remotes[name] = await stack.enter_async_context(remote_of(each, http, links))
        yield remotes


@asynccontextmanager
async def remote_of(
    config: LoaderConfig, http: HttpClient | None, links: Sequence[tuple[int, int]]
) -> AsyncIterator[Remote | None]:
    """Yields the client that the settings ask for, or None if no payload has an address.

    http: the client of this process. links: to the download processes, as `DownloadPool` takes them.
    """
    source = config.source_config
    if isinstance(source, FileSource) and source.is_stored:
        from datago_gpu.sources.object_store.stores import Stores

        yield Stores(config.http_config, source.storage_options)
    elif isinstance(source, UserSource | TableSource):
        from datago_gpu.sources.any_remote import AnyRemote
        from datago_gpu.sources.authorization import headers_by_origin

        async with AsyncExitStack() as stack:
            get: HttpGet
            if links:
                get = (await stack.enter_async_context(_pool(config.http_config, links))).get
            else:
                get = _LateClient(config.http_config, http, stack).get
            yield AnyRemote(config.http_config, get, source.storage_options, headers_by_origin(source))
    elif http is None:
        yield None
    elif links:
        async with _pool(config.http_config, links) as pool:
            yield pool
    else:
        from datago_gpu.sources.http.hedge import HedgedClient

        yield HedgedClient(http, config.http_config)


def _pool(config: HttpConfig, links: Sequence[tuple[int, int]]) -> DownloadPool:
    from datago_gpu.feeder.download.pool import DownloadPool  # most streams have no download processes

    return DownloadPool(config, links)
