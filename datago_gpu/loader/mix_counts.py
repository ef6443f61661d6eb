"""Counts what the sources of a mix have given, for `Stats`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from datago_gpu.config import LoaderConfig
from datago_gpu.loader.stats import MixCount
from datago_gpu.sources.mix.turns import passes_before
from datago_gpu.sources.reference import Skipped

__all__ = ["MixCounts"]


class MixCounts:
    """Counts samples by their source. config: of a mix."""

    def __init__(self, config: LoaderConfig) -> None:
        self._names = [name for name, _ in config.source_types]
        self._delivered: Counter[str] = Counter()
        self._skipped: dict[str, Counter[str]] = {name: Counter() for name in self._names}
        self._filtered: Counter[str] = Counter()
        self._passes: dict[str, int] = {}

    def deliver(self, mix: Iterable[str], pass_numbers: Iterable[int | None], real: Iterable[bool]) -> None:
        """Counts samples delivered. mix, pass_numbers, real: as in a Batch."""
        for name, number, counts in zip(mix, pass_numbers, real, strict=True):
            if counts:
                self._delivered[name] += 1
                self._passes[name] = passes_before(number or 0)

    def skip(self, skips: Iterable[Skipped]) -> None:
        """Counts samples skipped."""
        for each in skips:
            if each.is_filtered:
                self._filtered[each.mix] += each.count
            elif each.mix in self._skipped:
                self._skipped[each.mix][each.reason] += 1

    def counts(self) -> dict[str, MixCount]:
        """Returns name -> counts, in the order of the settings."""
        return {
            name: MixCount(
                self._delivered[name], dict(self._skipped[name]), self._passes.get(name, 0), self._filtered[name]
            )
            for name in self._names
        }
