"""The budget for bad samples: what is counted, what is logged, and when a run ends."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.errors import TooManyErrors
from datago_gpu.failures import KEPT, SHARE_FROM, Failures
from datago_gpu.sources.base import Skipped


def bad(count: int, reason: str = "truncated", first: int = 0) -> list[Skipped]:
    numbers = range(first, first + count)
    return [Skipped(number, f"id{number}", f"/data/{number}.jpg", reason, "cut at 10") for number in numbers]


def test_skips_are_counted_by_reason() -> None:
    failures = Failures(None)
    failures.add([*bad(3), *bad(2, "empty")])
    failures.add(bad(1))
    assert dict(failures.by_reason) == {"truncated": 4, "empty": 2}


def test_the_first_of_each_reason_warns_and_the_others_are_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "datago_gpu"):
        Failures(None).add([*bad(3), *bad(1, "empty", first=9)])
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG", "WARNING"]
    assert caplog.records[0].getMessage() == "skipped sample 'id0' (/data/0.jpg): truncated: cut at 10"


@given(st.integers(0, 20), st.integers(0, 40), st.integers(0, 1000))
def test_a_count_is_the_number_of_bad_samples_that_are_allowed(allowed: int, count: int, delivered: int) -> None:
    failures = Failures(allowed)
    failures.add(bad(count))
    assert raises(failures, delivered, final=False) == (count > allowed)


@given(st.floats(0, 0.99), st.integers(0, 300), st.integers(0, 300), st.booleans())
def test_a_share_is_looked_at_from_the_100th_sample_on_and_at_the_end(
    allowed: float, count: int, delivered: int, final: bool
) -> None:
    failures = Failures(allowed)
    failures.add(bad(count))
    seen = count + delivered
    expected = count > allowed * seen and (final or seen >= SHARE_FROM)
    assert raises(failures, delivered, final=final) == (expected or (final and count > 0 and not delivered))


def test_without_a_bound_only_a_run_in_which_all_was_bad_is_an_error() -> None:
    failures = Failures(None)
    failures.add(bad(1000))
    failures.check(0)
    failures.check(1, final=True)
    with pytest.raises(TooManyErrors, match="1000 of 1000 samples were bad"):
        failures.check(0, final=True)


def test_a_run_without_samples_is_no_error() -> None:
    for allowed in (None, 0, 0.0):
        Failures(allowed).check(0, final=True)


def test_the_error_says_how_many_of_which_kind_and_shows_the_last_ones() -> None:
    failures = Failures(4)
    failures.add([*bad(3, "empty"), *bad(12, first=3)])
    with pytest.raises(TooManyErrors) as caught:
        failures.check(5)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "15 of 20 samples were bad (12 truncated, 3 empty); max_failures is 4; the last of them:"
    )  # the most frequent first
    assert [error.id for error in caught.value.last] == [f"id{number}" for number in range(15 - KEPT, 15)]
    assert lines[-1].strip() == "sample 'id14' (/data/14.jpg): truncated: cut at 10"


def raises(failures: Failures, delivered: int, *, final: bool) -> bool:
    try:
        failures.check(delivered, final=final)
    except TooManyErrors:
        return True
    return False
