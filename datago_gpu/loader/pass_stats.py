"""Keeps the statistics of a LoaderDataset over its passes, each of which is a Loader of its own."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from datago_gpu.loader.stats import Stage, Stats
from datago_gpu.loader.stats_sums import total

if TYPE_CHECKING:
    from datago_gpu.config import LoaderConfig
    from datago_gpu.loader.loader import Loader

__all__ = ["PassStats"]

_STAGES = tuple(Stage(name, 0, 0.0, 0.0, 0.0) for name in ("fetch", "pack", "decode", "trainer"))


class PassStats:
    """Adds up the statistics of passes that have ended and of those under way. Any thread may call `stats`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """The garbage collector may end an iterator, and so a pass, while its thread is in `stats`."""
        self._ended: Stats | None = None
        self._under_way: list[Loader] = []
        self._epoch_samples: int | None = None
        """Number of samples of the last pass that came to its end, if one has."""

    def __reduce__(self) -> tuple[type[PassStats], tuple[()]]:
        return PassStats, ()  # a copy in another process counts for itself

    def begin(self, loader: Loader) -> None:
        """Adds a pass."""
        with self._lock:
            self._under_way.append(loader)

    def end(self, loader: Loader, *, whole: bool) -> None:
        """Keeps the statistics of a pass in place of its Loader. whole: whether the pass came to its end."""
        with self._lock:
            stats = loader.stats()
            self._under_way.remove(loader)
            self._ended = total(self._ended, stats) if self._ended else stats
            if whole:
                self._epoch_samples = stats.epoch_done

    def stats(self, config: LoaderConfig) -> Stats:
        """Returns the statistics of all passes. config: says what is known before the first one."""
        with self._lock:
            found = self._ended
            for loader in list(self._under_way):
                found = total(found, loader.stats()) if found else loader.stats()
            if found is None:
                rank, source = config.rank_and_world_size()[0], config.source_type
                return Stats(0, {}, 0, 1e-9, _STAGES, 0.0, rank=rank, source=source)
            if found.epoch_total is None:
                return replace(found, epoch_total=self._epoch_samples)
            return found
