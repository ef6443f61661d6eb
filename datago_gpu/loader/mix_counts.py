"""Counts what the sources of a mix have given, for `Stats`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from datago_gpu.config import LoaderConfig
from datago_gpu.loader.skips import Skips
from datago_gpu.loader.stats import MixCount
from datago_gpu.sources.mix.turns import passes_before

__all__ = ["MixCounts"]


class MixCounts:
    """Counts samples by their source. config: of a mix. skips: counts the samples skipped."""

    def __init__(self, config: LoaderConfig, skips: Skips) -> None:
        self._names = [name for name, _ in config.source_types]
        self._delivered: Counter[str] = Counter()
        self._skips = skips
        self._passes: dict[str, int] = {}

    def deliver(self, mix: Iterable[str], pass_numbers: Iterable[int | None], real: Iterable[bool]) -> None:
        """Counts samples delivered. mix, pass_numbers, real: as in a Batch."""
        for name, number, counts in zip(mix, pass_numbers, real, strict=True):
            if counts:
                self._delivered[name] += 1
                self._passes[name] = passes_before(number or 0)

    def counts(self) -> dict[str, MixCount]:
        """Returns name -> counts, in the order of the settings."""
        skipped, filtered = self._skips.by_source, self._skips.filtered_by_source
        return {
            name: MixCount(
                self._delivered[name], dict(skipped.get(name, {})), self._passes.get(name, 0), filtered[name]
            )
            for name in self._names
        }
