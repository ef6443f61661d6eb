"""Reads ranges of remote images from any kind of address: http(s), or object storage."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig, TableSource
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.sources.authorization import headers_by_origin, headers_for
from datago_gpu.sources.http.excerpt import Excerpt

if TYPE_CHECKING:
    from datago_gpu.sources.http.http_client import HttpClient
    from datago_gpu.sources.object_store.stores import Stores

__all__ = ["AnyRange"]


class AnyRange:
    """Reads ranges of the images of a source. Of a table, with the headers that belong to an origin.

    Raises SourceError if an address of the table is none.
    """

    def __init__(self, config: LoaderConfig, http: HttpClient) -> None:
        source = config.source_config
        self._config, self._http = config, http
        self._headers = headers_by_origin(source) if isinstance(source, TableSource) else {}

    async def get(self, url: str, begin: int, end: int, *, tag: str = "", known: str = "") -> Excerpt | None:
        """Returns a range: see `HttpClient.get_range`. Object storage is never asked about `known`."""
        if url.startswith(STORE_SCHEMES):
            return await self._stores.get_range(url, begin, end, tag=tag)
        headers = headers_for(url, self._headers)
        return await self._http.get_range(url, begin, end, tag=tag, known=known, headers=headers)

    @cached_property
    def _stores(self) -> Stores:
        from datago_gpu.sources.object_store.stores import Stores  # most images are not in object storage

        return Stores(self._config.http_config, getattr(self._config.source_config, "storage_options", {}))
