"""How far two decoders are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference"]


class Difference:
    """Collects absolute differences of uint8 images, as a histogram."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)

    def add(self, ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        """Raises ValueError for images of different shapes."""
        if ours.shape != theirs.shape:
            raise ValueError(f"shapes differ: {ours.shape} and {theirs.shape}")
        apart = np.maximum(ours, theirs) - np.minimum(ours, theirs)  # in uint8, without wrapping
        self._counts += np.bincount(apart.reshape(-1), minlength=256)

    @property
    def mean(self) -> float:
        return float((self._counts * np.arange(256)).sum() / max(1, self._counts.sum()))

    @property
    def max(self) -> int:
        return int(np.flatnonzero(self._counts).max(initial=0))

    def quantile(self, share: float) -> int:
        """The smallest difference that at least this share of the values does not exceed."""
        return int(np.searchsorted(np.cumsum(self._counts), share * self._counts.sum()))

    def __str__(self) -> str:
        return f"mean {self.mean:.3f}, p99.9 {self.quantile(0.999)}, max {self.max}"
