"""Reads the statistics of an interval as plain numbers: what the callbacks log."""

from __future__ import annotations

from datago_gpu.errors import ConfigError
from datago_gpu.loader.stats import Stats
from datago_gpu.metrics.watched import HasStats

__all__ = ["Meter", "check_interval"]


class Meter:
    """Returns at each call the flat statistics since the call before. prefix: stands before each name."""

    def __init__(self, loader: HasStats, prefix: str) -> None:
        self._loader, self._prefix = loader, prefix
        self._before: Stats | None = None

    def read(self) -> dict[str, float]:
        """Returns name -> value."""
        now = self._loader.stats()
        late = now.since(self._before) if self._before else now
        self._before = now
        return late.flat(self._prefix)


def check_interval(every_n_steps: int) -> int:
    """Returns the number of steps between two logs, checked. Raises ConfigError."""
    if every_n_steps < 1:
        raise ConfigError(f"every_n_steps must be at least 1, got {every_n_steps}")
    return every_n_steps
