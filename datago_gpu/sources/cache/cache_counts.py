"""Counts what was found in the cache. Apart from the cache, which most streams do not import."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["CacheCounts"]


class CacheCounts(Struct, array_like=True):
    """Counts payloads and shards since the start: those found in the cache, and those not found."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    """Read from the cache."""

    def plus(self, other: CacheCounts) -> CacheCounts:
        """Returns the sum."""
        return CacheCounts(self.hits + other.hits, self.misses + other.misses, self.bytes + other.bytes)
