"""Which source of a mix is next: shares are exact to one sample at every place, and one order is planned as another."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu import ConfigError
from datago_gpu.sources.mix.mixture import Mixture, turn_sequence
from datago_gpu.sources.mix.turns import Turns, pass_number, passes_before, whole_weights

some_weights = st.lists(
    st.sampled_from([0, 1, 2, 3, 0.1, 0.7, 1e-3]) | st.integers(1, 1000) | st.floats(1e-3, 1e3), min_size=1, max_size=6
).filter(any)


@given(some_weights, st.integers(1, 400))
def test_shares_are_exact_to_one_sample_at_every_place(weights: list[float], count: int) -> None:
    turns = Turns(weights)
    exact = [Fraction(str(weight)) for weight in weights]
    for done in range(1, count + 1):
        turns.take(turns.next())
        for taken, weight in zip(turns.taken, exact, strict=True):
            assert abs(taken - weight * done / sum(exact)) < 1
    assert turn_sequence(weights, count).tolist() == _sequence(weights, count)


def _sequence(weights: list[float], count: int) -> list[int]:
    turns, found = Turns(weights), []
    for _ in range(count):
        found.append(turns.next())
        turns.take(found[-1])
    return found


def test_weights_mean_their_ratios_and_ties_go_to_the_first_source() -> None:
    assert whole_weights([0.7, 0.2, 0.1]) == [7, 2, 1]
    assert whole_weights([20, 0, 30.0]) == [2, 0, 3]
    assert _sequence([1, 1, 1], 6) == [0, 1, 2, 0, 1, 2]
    assert _sequence([2, 1], 6) == [0, 0, 1, 0, 0, 1]
    assert _sequence([0, 5], 3) == [1, 1, 1]


@given(some_weights, st.integers(0, 300))
def test_whole_rounds_can_be_skipped(weights: list[float], count: int) -> None:
    quick, slow = Turns(weights), Turns(weights)
    skipped = quick.skip_rounds(count)
    for _ in range(skipped):
        slow.take(slow.next())
    assert quick.taken == slow.taken
    assert count - skipped < sum(quick.weights)


def test_a_source_that_gives_no_more_is_left_out() -> None:
    turns = Turns([3, 1])
    turns.finished[0] = True
    found = []
    for _ in range(3):
        found.append(turns.next())
        turns.take(found[-1])
    assert found == [1, 1, 1]
    turns.finished[1] = True
    assert turns.next() == -1


def test_a_first_pass_has_the_number_of_its_epoch_and_no_number_occurs_twice() -> None:
    assert [pass_number(epoch, 0) for epoch in range(4)] == [0, 1, 2, 3]
    numbers = {pass_number(epoch, before) for epoch in range(9) for before in range(9)}
    assert len(numbers) == 81
    assert passes_before(pass_number(7, 5)) == 5


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def _rows(epoch_seed: int, counts: list[int]) -> dict[tuple[int, int], NDArray[np.int64]]:
    generator = np.random.default_rng(epoch_seed)
    return {
        (number, before): generator.permutation(count) for number, count in enumerate(counts) for before in range(99)
    }


@given(sizes, st.data(), st.sampled_from(["first", "all"]), st.booleans(), st.integers(0, 5))
def test_a_planned_epoch_is_the_one_that_turns_give(
    counts: list[int], data: st.DataObject, stop: Literal["first", "all"], repeats: bool, seed: int
) -> None:
    """Passes begin when a source has no more, and the epoch ends where `stop` or `repeat` says. Weights may change."""
    drawn = st.lists(st.integers(1 if repeats else 0, 4), min_size=len(counts), max_size=len(counts)).filter(any)
    weights, before = data.draw(drawn), []
    rows, walk = _rows(seed, counts), _Walk(counts, stop)
    if repeats:
        expected = walk.passes(weights)
    else:
        for _ in range(data.draw(st.integers(0, 2))):
            earlier = data.draw(drawn)
            length = walk.go_on(earlier, data.draw(st.integers(0, 20)))
            before.append((length, earlier))
        if walk.has_ended:
            return
        walk.go_on(weights)
        expected = walk.found
    mixture = Mixture(counts, weights, stop, repeats=repeats, before=before)
    order = mixture.order(lambda number, before: rows[number, before]).tolist()
    wanted = [(number, before, int(rows[number, before][place])) for number, before, place in expected]
    assert [tuple(mixture.locate(occurrence)) for occurrence in order] == wanted
    assert len(mixture) == len(order) == len(set(order))
    assert mixture.sources_of(np.array(order, np.int64)).tolist() == [number for number, _, _ in wanted]
    assert all(occurrence < mixture.occurrences for occurrence in order)


class _Walk:
    """Takes turns one by one, and keeps (source, passes before, place in the pass)."""

    def __init__(self, counts: list[int], stop: str) -> None:
        self._counts, self._stop = counts, stop
        self._before, self._place = [0] * len(counts), [0] * len(counts)
        self.found: list[tuple[int, int, int]] = []
        self.has_ended = False

    def go_on(self, weights: list[int], most: int = 10**6) -> int:
        """Returns the number of samples given, at most `most`, with these weights."""
        turns = Turns(weights)
        for count in range(most):
            number = turns.next()
            if self._place[number] == self._counts[number]:
                self._before[number], self._place[number] = self._before[number] + 1, 0
                drawn = [before for before, weight in zip(self._before, weights, strict=True) if weight]
                if self._stop == "first" or all(drawn):
                    self.has_ended = True
                    return count
            self._give(number, turns)
        return most

    def passes(self, most: list[int]) -> list[tuple[int, int, int]]:
        """Returns the samples of so many passes through each source."""
        turns = Turns([count * times for count, times in zip(self._counts, most, strict=True)])
        while (number := turns.next()) >= 0:
            if self._place[number] == self._counts[number]:
                self._before[number], self._place[number] = self._before[number] + 1, 0
            if self._before[number] == most[number]:
                turns.finished[number] = True
            else:
                self._give(number, turns)
        return self.found

    def _give(self, number: int, turns: Turns) -> None:
        self.found.append((number, self._before[number], self._place[number]))
        self._place[number] += 1
        turns.take(number)


def test_a_source_without_rows_is_named_unless_its_weight_is_0() -> None:
    with pytest.raises(ValueError, match="1"):
        Mixture([3, 0], [1, 1], "first", repeats=False)
    assert len(Mixture([3, 0], [1, 0], "all", repeats=False)) == 3


@pytest.mark.parametrize(
    ("weights", "repeats"), [([1e9, 1], False), ([1e12, 1e-9], False), ([1_000_000, 1], True), ([100, 100], True)]
)
def test_an_epoch_that_is_too_long_for_a_plan_is_refused_at_once(weights: list[float], repeats: bool) -> None:
    counts = [10_000_000, 10]
    with pytest.raises(ConfigError, match="an epoch of this mix would have about"):
        Mixture(counts, weights, "all", repeats=repeats)
