"""The random numbers of a sample: pinned, since a run that is resumed with another version must draw the same."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.draws import draw_key, draws_of

NUMBERS = st.integers(0, 2**40)


def test_the_numbers_never_change() -> None:
    assert draw_key(0, 0, "a") == 239987006881578130509468703250084327534
    draws = draws_of(7, 2, "folder/näme.jpg", 1)
    assert [draws.random() for _ in range(3)] == [0.9529475209713658, 0.4764624419901443, 0.5438840159875594]


@given(NUMBERS, NUMBERS, st.text(), NUMBERS, st.integers(0, 3))
def test_each_of_the_four_changes_what_is_drawn(seed: int, epoch: int, sample_id: str, view: int, changed: int) -> None:
    given_, other = [seed, epoch, sample_id, view], [seed, epoch, sample_id, view]
    other[changed] = f"{sample_id} " if changed == 2 else other[changed] + 1
    assert draws_of(*given_).random() == draws_of(*given_).random()
    assert draw_key(*given_) != draw_key(*other)


def test_numbers_are_spread_evenly_and_never_repeat() -> None:
    """Eight of them are of one hash, then another hash follows."""
    draws = draws_of(1, 2, "a")
    numbers = [draws.random() for _ in range(20_000)]
    assert len(set(numbers)) == len(numbers)
    assert 0 <= min(numbers) < max(numbers) < 1
    tenths = Counter(int(10 * number) for number in numbers)
    assert all(abs(tenths[at] - 2000) < 200 for at in range(10))
    firsts = [draws_of(1, 2, f"{number}").random() for number in range(20_000)]
    tenths = Counter(int(10 * number) for number in firsts)
    assert all(abs(tenths[at] - 2000) < 200 for at in range(10))


def test_neighbours_are_not_mistaken_for_each_other() -> None:
    keys = {draw_key(1, 11, "1"), draw_key(11, 1, "1"), draw_key(1, 1, "1 1", 1), draw_key(1, 1, "1", 11)}
    assert len(keys) == 4
