"""The promise of a mix: after each sample, every source has its share, exact to one sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction

__all__ = ["assert_shares"]


def assert_shares(names: Iterable[str], weights: Mapping[str, float]) -> None:
    """Checks this at every place. names: of the source of each sample."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    total, taken = sum(exact.values()), Counter[str]()
    for place, name in enumerate(names, 1):
        taken[name] += 1
        assert all(abs(taken[each] - place * weight / total) < 1 for each, weight in exact.items())
