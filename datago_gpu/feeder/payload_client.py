"""Chooses what downloads payloads: this process, download processes, or a client for object storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from datago_gpu.config import FileSource, HttpConfig, LoaderConfig, UserSource
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.sources.reference import Need

if TYPE_CHECKING:
    from datago_gpu.sources.http.http_client import (
        HttpClient,  # importing aiohttp takes 0.1 s: local files do without
    )

__all__ = ["Remote", "remote_of"]


class Remote(Protocol):
    """Downloads payloads, any number at once."""

    def get(self, url: str, max_bytes: int, need: Need | None = None) -> Awaitable[bytes]:
        """Returns the whole body at `url`, of at most `max_bytes`. Raises HttpFailure.

        need: called with the size of the body, before memory is allocated.
        """
        ...


class _ByScheme:
    """Asks web servers or object storage, as each address requires. The package for storage is imported when needed."""

    def __init__(self, web: Remote, config: HttpConfig, options: Mapping[str, str]) -> None:
        self._web, self._config, self._options = web, config, options
        self._stores: Remote | None = None

    def get(self, url: str, max_bytes: int, need: Need | None = None) -> Awaitable[bytes]:
        """See `Remote.get`. Raises ConfigError if object storage cannot be used."""
        if not url.startswith(STORE_SCHEMES):
            return self._web.get(url, max_bytes, need)
        if self._stores is None:
            from datago_gpu.sources.object_store.stores import Stores

            self._stores = Stores(self._config, self._options)
        return self._stores.get(url, max_bytes, need)


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
    elif isinstance(source, UserSource):
        from datago_gpu.sources.http.hedge import HedgedClient

        assert http is not None
        yield _ByScheme(HedgedClient(http, config.http_config), config.http_config, source.storage_options)
    elif http is None:
        yield None
    elif links:
        from datago_gpu.feeder.download.pool import DownloadPool

        async with DownloadPool(config.http_config, links) as pool:
            yield pool
    else:
        from datago_gpu.sources.http.hedge import HedgedClient

        yield HedgedClient(http, config.http_config)
