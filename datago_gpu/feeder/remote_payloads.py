"""Gets payloads that have addresses: from the cache, else from their servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.feeder.payload_client import Remote
from datago_gpu.feeder.prefetch_budget import FREE_BYTES, Claim
from datago_gpu.sources.cache.cache_counts import CacheCounts
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.reference import Part, SampleRef

if TYPE_CHECKING:
    from datago_gpu.sources.cache.cache_folder import CacheFolder, Miss

__all__ = ["RemotePayloads"]


class RemotePayloads:
    """Downloads payloads with `remote`, None if no payload has an address. cache: keeps them; None: nothing is kept."""

    def __init__(self, config: LoaderConfig, remote: Remote | None, cache: CacheFolder | None) -> None:
        self.remote, self.cache = remote, cache.of_source(config) if cache else None
        self.counts = cache.counts if cache else CacheCounts()
        self._most = Limits.of(config).payload

    async def get(self, ref: SampleRef, wanted: SampleRef | Part, claim: Claim) -> tuple[bytes, Miss | None]:
        """Returns the payload of a sample's image, or of one of its parts. If the cache does not have it, the Miss is
        for `keep`. Raises HttpFailure."""
        await claim.need(FREE_BYTES)
        miss = None
        if self.cache:
            found = await self.cache.find(wanted.url, wanted.span, ref.version, self._most, FREE_BYTES, claim.need)
            if isinstance(found, bytes):
                claim.use(len(found))
                return found, None
            miss = found
        payload = await self._download(ref, wanted, claim)
        claim.use(len(payload))
        return payload, miss

    async def keep(self, miss: Miss | None, payload: bytes) -> None:
        """Puts a payload into the cache, if it is not there. To be called once the payload is known to be sound: a
        server's page of an error must not stay."""
        if miss and self.cache:
            await self.cache.keep(miss, payload)

    async def _download(self, ref: SampleRef, wanted: SampleRef | Part, claim: Claim) -> bytes:
        assert self.remote is not None
        try:
            return await self.remote.get(wanted.url, self._most, claim.need, wanted.span)
        except HttpFailure as failure:
            if not failure.may_be_expired or ref.renew is None:
                raise
        renewed = await ref.renew(wanted.name if isinstance(wanted, Part) else "")
        return await self.remote.get(renewed, self._most, claim.need)
