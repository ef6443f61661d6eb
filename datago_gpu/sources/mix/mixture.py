"""The order of an epoch of a mix whose rows are all known: which row of which source is at each place.

A row may occur several times in an epoch, once in each pass through its source. Each occurrence has a number of its
own: source after source, and within a source pass after pass. So a plan knows which occurrences are done.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from datago_gpu.errors import ConfigError
from datago_gpu.sources.mix.turns import Turns, whole_weights

__all__ = ["Mixture", "Occurrence", "turn_sequence"]

_MOST_SAMPLES = 2**28
"""The most samples of an epoch, which is planned as a whole: a plan takes about 60 bytes for each."""
_MOST_PASSES = 1_000_000
"""The most passes through one source in an epoch."""

Whole = TypeVar("Whole", bound="np.integer[Any]")


class Occurrence(NamedTuple):
    """What the number of an occurrence stands for."""

    source: int
    before: int
    """Number of passes through the source that came before in this epoch."""
    row: int


class Mixture:
    """Orders the rows of several sources.

    counts: number of rows of each source. weights: of each source. repeats: whether an epoch ends after `weights`
    passes through each source; if not, it ends as `stop` says. before: number of samples and weights of each stretch of
    the epoch with other weights, before `weights` hold. Raises ValueError if a source with a weight has no row, and
    ConfigError if an epoch would be too long.
    """

    def __init__(
        self,
        counts: Sequence[int],
        weights: Sequence[float],
        stop: Literal["first", "all"],
        *,
        repeats: bool,
        before: Sequence[tuple[int, Sequence[float]]] = (),
    ) -> None:
        for each in (*(earlier for _, earlier in before), weights):
            empty = [number for number, weight in enumerate(each) if weight and not counts[number]]
            if empty:
                raise ValueError(empty[0])
        if repeats:
            shares = [count * int(weight) for count, weight in zip(counts, weights, strict=True)]
            _check_length(sum(shares), max(weights))
            sequence = turn_sequence(shares, sum(shares))
        else:
            parts = [turn_sequence(earlier, length) for length, earlier in before]
            given = np.bincount(np.concatenate([*parts, np.empty(0, np.uint8)]), minlength=len(counts)).tolist()
            sequence = np.concatenate([*parts, _to_the_end(counts, weights, stop, given)])
        self._sequence, self._counts = sequence, list(counts)
        self._taken: list[int] = np.bincount(sequence, minlength=len(counts)).tolist()
        passes = [-(-taken // max(1, count)) for taken, count in zip(self._taken, counts, strict=True)]
        self.passes: list[int] = passes
        """Number of passes through each source in an epoch; the last one may not be whole."""
        sizes = (each * count for each, count in zip(passes, counts, strict=True))
        self._starts: list[int] = list(accumulate(sizes, initial=0))

    def __len__(self) -> int:
        """Returns the number of samples of an epoch."""
        return int(self._sequence.size)

    @property
    def occurrences(self) -> int:
        """Returns how many numbers there are; those of the ends of the last passes are in no epoch."""
        return self._starts[-1]

    def order(self, of_source: Callable[[int, int], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Returns the numbers of the occurrences of an epoch (int64), in their order.

        of_source: number of a source, and of passes before -> the numbers of its rows in the order of that pass.
        """
        order = np.empty(len(self._sequence), np.int64)
        for number, count in enumerate(self._counts):
            if not self._taken[number]:
                continue
            start = self._starts[number]
            rows = [start + before * count + of_source(number, before) for before in range(self.passes[number])]
            order[self._sequence == number] = np.concatenate(rows)[: self._taken[number]]
        return order

    def repeat(self, of_sources: Sequence[NDArray[Whole]]) -> NDArray[Whole]:
        """Returns the values of all occurrences. of_sources: for each source, the values of its rows."""
        columns = [np.tile(each, (passes, *[1] * (each.ndim - 1)))
                   for each, passes in zip(of_sources, self.passes, strict=True)]  # fmt: skip
        return np.concatenate(columns)

    def locate(self, number: int) -> Occurrence:
        """Returns what the number of an occurrence stands for."""
        source = bisect_right(self._starts, number) - 1
        before, row = divmod(number - self._starts[source], self._counts[source])
        return Occurrence(source, before, row)

    def rows_of(self, source: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the row number of each occurrence, all of which are of this source."""
        return (numbers - self._starts[source]) % max(1, self._counts[source])

    def sources_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the number of the source of each occurrence."""
        return np.asarray(np.searchsorted(self._starts, numbers, side="right") - 1)


def _to_the_end(
    counts: Sequence[int], weights: Sequence[float], stop: Literal["first", "all"], given: Sequence[int]
) -> NDArray[np.uint8]:
    """Returns the turns up to the end of an epoch. given: samples that each source has given before."""
    used = [number for number, weight in enumerate(weights) if weight]
    left = {number: counts[number] - given[number] for number in used}
    takes_last = min if stop == "first" else max
    if stop == "all":
        unseen = {number: samples for number, samples in left.items() if samples >= 0}
        if unseen:
            left = unseen
        else:  # the epoch goes on only to the end of the next pass
            left, takes_last = {number: -given[number] % counts[number] for number in used}, min
    whole = whole_weights(weights)
    bounds = [-(-(samples + 1) * sum(whole) // whole[number]) for number, samples in left.items()]
    length = takes_last(bounds)
    _check_length(length, max(length * whole[number] // sum(whole) // counts[number] for number in used))
    sequence = turn_sequence(weights, length)
    turns = {number: np.flatnonzero(sequence == number) for number in left}
    ends = [int(turns[number][samples]) for number, samples in left.items() if len(turns[number]) > samples]
    return sequence[: takes_last(ends)]


def _check_length(samples: int, passes: float) -> None:
    """Raises ConfigError if an epoch has too many samples, or passes through a source, for a plan."""
    if samples > _MOST_SAMPLES or passes > _MOST_PASSES:
        raise ConfigError(
            f"an epoch of this mix would have about {samples:,} samples, with {int(passes):,} passes through one "
            f"source; lockstep plans at most {_MOST_SAMPLES:,} samples and {_MOST_PASSES:,} passes: set weights that "
            "differ less from the numbers of samples, fewer repeats, or stop to 'first'"
        )


def turn_sequence(weights: Sequence[float], length: int) -> NDArray[np.uint8]:
    """Returns the numbers of the sources that give the first `length` samples (uint8): as `Turns` takes them."""
    turns = Turns(weights)
    period = min(length, sum(turns.weights))
    begin = np.empty(period, np.uint8)
    for place in range(period):
        number = turns.next()
        turns.take(number)
        begin[place] = number
    return np.tile(begin, -(-length // max(1, period)))[:length]
