"""Durations in buckets: percentiles are those of the durations to within the width of a bucket."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.loader.durations import BOUNDS_S, DurationCounter, Durations

SECONDS = st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=60)


def counted(seconds: list[float]) -> Durations:
    counter = DurationCounter()
    for each in seconds:
        counter.add(each)
    return counter.copy()


@given(SECONDS, st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_exact_to_the_width_of_a_bucket(seconds: list[float], percent: int) -> None:
    exact = float(np.percentile(seconds, percent, method="inverted_cdf"))
    assert 0.87 * exact - 1e-5 <= counted(seconds).percentile_s(percent) <= 1.15 * exact + 1e-5


@given(SECONDS, SECONDS)
def test_what_was_added_later_is_the_difference(before: list[float], after: list[float]) -> None:
    both, first = counted(before + after), counted(before)
    assert both.plus(first, -1).counts == counted(after).counts
    assert first.plus(counted(after)).counts == both.counts
    assert both.sum_s == pytest.approx(math.fsum(before + after))


def test_the_bounds_grow_by_about_12_percent_and_hold_those_of_prometheus() -> None:
    steps = [above / below for below, above in pairwise(BOUNDS_S)]
    assert min(steps) > 1.10
    assert max(steps) < 1.15
    assert {0.001, 0.0025, 0.005, 0.1, 1.0, 10.0} < set(BOUNDS_S)
    assert counted([0.002, 0.005, 0.1]).up_to(0.005) == 2


def test_durations_beyond_the_bounds_are_counted_and_none_are_0() -> None:
    assert counted([1000.0]).percentile_s(50) == BOUNDS_S[-1]
    assert counted([0.0]).percentile_s(100) == BOUNDS_S[0]
    assert Durations().as_dict() == {"count": 0, "sum_s": 0.0, "p50_s": 0.0, "p95_s": 0.0, "p99_s": 0.0}
