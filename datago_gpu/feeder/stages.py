"""The stages of a run, which list, fetch and send samples, and what they have counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.feeder.pack import Packer
from datago_gpu.feeder.prefetch_budget import Claim
from datago_gpu.feeder.window import Outcome, Waits, Window
from datago_gpu.feeder.wire import Counts, QueueCount, StageCount
from datago_gpu.sources.cache.cache_counts import CacheCounts
from datago_gpu.sources.reference import Refs, SampleRef, Skipped, Source

__all__ = ["Fetching", "Stages"]


class Fetching(Protocol):
    """Loads payloads and has them admitted: a `Fetcher`, or of a mix a `MixFetcher`."""

    chunk: int

    @property
    def items(self) -> int:
        """Returns the number of samples loaded."""
        ...

    @property
    def cache_counts(self) -> CacheCounts:
        """Returns what this process has found in the cache."""
        ...

    async def __call__(self, refs: list[SampleRef], claim: Claim) -> list[Outcome]:
        """Loads these samples. A sample that fails is replaced by a Skipped."""
        ...


class Stages:
    """Holds the stages. A run opens one window after the other, and the waits of all windows are counted together."""

    def __init__(
        self,
        config: LoaderConfig,
        source: Source,
        fetcher: Fetching,
        packer: Packer,
        grouped: Callable[[], int],
    ) -> None:
        """grouped: returns the number of samples that wait in batches that are not full."""
        self._config, self._limits = config, Limits.of(config)
        self._source, self._fetcher, self._packer, self._grouped = source, fetcher, packer, grouped
        self._waits = Waits()
        self._window: Window | None = None

    def window(self, refs: Refs, *, ordered: bool, launched: Callable[[SampleRef | Skipped], None]) -> Window:
        """Returns the window that fetches these samples. ordered, launched: as for `Window`."""
        self._window = Window(
            refs,
            self._fetcher,
            size=self._limits.samples_ahead,
            most_bytes=self._limits.ahead,
            chunk=self._fetcher.chunk,
            workers=self._config.http_config.concurrent_downloads,
            ordered=ordered,
            launched=launched,
            waits=self._waits,
        )
        return self._window

    def counts(self) -> Counts:
        """Returns the counts. The source is asked only when there is room; the stages behind it wait for each other."""
        packer, for_trainer = self._packer, self._packer.wait.seconds
        stages = {
            "fetch": StageCount(self._fetcher.items, self._waits.refs.seconds, for_trainer),
            "pack": StageCount(packer.items, self._waits.results.seconds, for_trainer),
        }
        queues = {
            "fetch": QueueCount(self._window.under_way if self._window else 0, self._limits.samples_ahead),
            "bucket": QueueCount(self._grouped(), 0),
            "decode": QueueCount(packer.batches_out, packer.most_batches_out),
        }
        source, cache = self._source, self._fetcher.cache_counts
        return Counts(stages, time.process_time(), source.passed_over, cache, queues, source.epoch_samples)
