"""Downloads from any kind of address: http(s), or object storage. With the headers that belong to an origin."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from datago_gpu.config import HttpConfig
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.sources.authorization import headers_for
from datago_gpu.sources.reference import Need, Span

if TYPE_CHECKING:
    from datago_gpu.sources.object_store.stores import Stores

__all__ = ["AnyRemote"]


class HttpGet(Protocol):
    """Returns a body: see `HedgedClient.get`."""

    def __call__(
        self, url: str, max_bytes: int, need: Need | None, span: Span | None, headers: Mapping[str, str] | None
    ) -> Awaitable[bytes]: ...


class AnyRemote:
    """Downloads payloads, any number at once.

    get: downloads from http(s). options: of obstore. headers: origin -> headers that are sent to that origin only.
    """

    def __init__(
        self, config: HttpConfig, get: HttpGet, options: Mapping[str, str], headers: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._config, self._get, self._options, self._headers = config, get, options, headers

    @cached_property
    def stores(self) -> Stores:
        """Returns the client for object storage. Raises ConfigError if obstore is missing."""
        from datago_gpu.sources.object_store.stores import Stores

        return Stores(self._config, self._options)

    async def get(self, url: str, max_bytes: int, need: Need | None = None, span: Span | None = None) -> bytes:
        """Returns the body at `url`, or the bytes `span` of it, of at most `max_bytes`. Raises HttpFailure.

        need: called with the size of the body, before memory is allocated.
        """
        if url.startswith(STORE_SCHEMES):
            return await self.stores.get(url, max_bytes, need, span)
        return await self._get(url, max_bytes, need, span, headers_for(url, self._headers))
