"""Decides which source of a mix gives the next sample: shares that are exact to one sample at every place.

After n samples, a source with weight w of W has given n * w / W of them, rounded down or up, whatever n is. Of the
sources that are not ahead of their shares, the next sample is of the one that would be behind first (the quota method
of Balinski and Young, 1975). There is no randomness. Whole numbers are used: no error adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, lcm

__all__ = ["Turns", "pass_number", "passes_before", "whole_weights"]

_FURTHER_PASS = 32
"""Bits of a pass number that hold the number of the epoch."""


def pass_number(epoch: int, before: int) -> int:
    """Returns the number of a pass through a source of a mix, which is to the source what an epoch is without a mix.

    before: number of passes through the source that came before in this epoch. The first pass has the number of the
    epoch.
    """
    return epoch + (before << _FURTHER_PASS)


def passes_before(number: int) -> int:
    """Returns how many passes came before the pass with this number in its epoch."""
    return number >> _FURTHER_PASS


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Returns the smallest whole numbers that have the same ratios. 0.1 counts as 1/10."""
    from fractions import Fraction  # only a mix needs it

    exact = [Fraction(str(weight)) for weight in weights]
    common = lcm(*(each.denominator for each in exact))
    whole = [int(each * common) for each in exact]
    divisor = gcd(*whole) or 1
    return [each // divisor for each in whole]


class Turns:
    """Takes turns among sources, from a given number of samples of each on.

    weights: of each source; only the ratios matter. taken: samples that each source has given before.
    """

    def __init__(self, weights: Sequence[float], taken: Sequence[int] = ()) -> None:
        self.weights = whole_weights(weights)
        self.taken = list(taken) or [0] * len(weights)
        """How many samples each source has given."""
        self.finished = [False] * len(weights)
        """Sources that give no more."""
        self._total, self._done = sum(self.weights), sum(self.taken)

    def next(self) -> int:
        """Returns the number of the source that gives the next sample, which `take` counts; -1 if no source gives more.

        If only sources are left that are ahead of their shares, they go on in the same order.
        """
        weights, taken, total, done = self.weights, self.taken, self._total, self._done
        best = ahead = -1
        for number, weight in enumerate(weights):
            if not weight or self.finished[number]:
                continue
            count = taken[number]
            if count * total < weight * (done + 1):
                if best < 0 or (count + 1) * weights[best] < (taken[best] + 1) * weight:
                    best = number
            elif best < 0 and (ahead < 0 or (count + 1) * weights[ahead] < (taken[ahead] + 1) * weight):
                ahead = number
        return best if best >= 0 else ahead

    def take(self, number: int) -> None:
        """Counts a sample of that source."""
        self.taken[number] += 1
        self._done += 1

    def skip_rounds(self, most: int) -> int:
        """Counts whole rounds, after each of which all shares are exact, of at most `most` samples together. Returns
        the number of samples counted. Only for turns that begin with no sample taken."""
        rounds = most // self._total
        for number, weight in enumerate(self.weights):
            self.taken[number] += rounds * weight
        self._done += rounds * self._total
        return rounds * self._total
