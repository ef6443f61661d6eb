"""Fetches the samples of a mix: each by the settings, the keys and the client of its own source."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import structs

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import SourceError
from datago_gpu.feeder.fetch import FILES_A_JOB, Fetcher
from datago_gpu.feeder.payload_client import Remote
from datago_gpu.feeder.prefetch_budget import Claim
from datago_gpu.feeder.window import Outcome
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.sources.cache.cache_counts import CacheCounts
from datago_gpu.sources.mix.mix_listing import named
from datago_gpu.sources.reference import SampleRef, Skipped

if TYPE_CHECKING:
    from datago_gpu.sources.cache.cache_folder import CacheFolder

__all__ = ["MixFetcher"]


class MixFetcher:
    """Loads payloads and has them admitted, with the methods of `Fetcher`. One limit of memory holds for all sources.

    remotes: name of a source -> what downloads its payloads. cache: keeps those of all sources; None if none are kept.
    """

    def __init__(
        self, config: LoaderConfig, remotes: Mapping[str, Remote | None], cache: CacheFolder | None = None
    ) -> None:
        memory = Allowance(Limits.of(config).decoding)
        self._fetchers = {
            name: Fetcher(settings, remotes[name], memory, cache) for name, settings in config.by_source().items()
        }
        self.cache_counts = cache.counts if cache else CacheCounts()
        self.chunk = FILES_A_JOB

    @property
    def items(self) -> int:
        """Returns the number of samples loaded."""
        return sum(fetcher.items for fetcher in self._fetchers.values())

    async def __call__(self, refs: list[SampleRef], claim: Claim) -> list[Outcome]:
        """Loads these samples. A sample that fails is replaced by a Skipped. Raises SourceError, which names the
        source."""
        outcomes: list[Outcome] = []
        for name, some in groupby(refs, lambda ref: ref.info.mix):
            try:
                found = await self._fetchers[name](list(some), claim)
            except SourceError as problem:
                raise named(problem, name) from problem
            outcomes += [structs.replace(each, mix=name) if isinstance(each, Skipped) else each for each in found]
        return outcomes

    def close(self) -> None:
        """Releases the threads without waiting for the files that they read."""
        for fetcher in self._fetchers.values():
            fetcher.close()
