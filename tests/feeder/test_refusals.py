"""A long row of samples that cannot be had is the fault of the source; anything shorter is passed on, in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.errors import SourceError
from datago_gpu.feeder.refusals import Refusals
from datago_gpu.sources.reference import Skipped

GOOD = "a sample"
MOST = 8


def skipped(reason: str, index: int = 0) -> Skipped:
    return Skipped(index, f"im-{index}", "http://x/a.jpg", reason, "a detail")


outcomes = st.sampled_from(["", "http-403", "missing", "timeout", "truncated"])


@given(st.lists(outcomes, max_size=40))
def test_everything_comes_in_order_and_a_long_row_ends_the_run(reasons: list[str]) -> None:
    """The model: refusals with nothing good between, where a bad picture neither breaks the row nor counts."""
    refusals: Refusals[str] = Refusals(MOST)
    given_ = [skipped(reason, number) if reason else GOOD for number, reason in enumerate(reasons)]
    row, ends_at = 0, None
    for number, reason in enumerate(reasons):
        row = 0 if not reason else row + (reason != "truncated")
        if row == MOST:
            ends_at = number
            break
    passed: list[str | Skipped] = []

    def pass_all() -> None:
        for outcome in given_:
            passed.extend(refusals.take(outcome))
        passed.extend(refusals.end())

    if ends_at is not None or row >= MOST // 4:
        with pytest.raises(SourceError, match="in a row could not be loaded"):
            pass_all()
    else:
        pass_all()
        assert sorted(map(repr, passed)) == sorted(map(repr, given_))  # nothing is lost, nothing doubled
        assert [each for each in passed if each == GOOD] == [each for each in given_ if each == GOOD]
    before = [each for each in given_[:ends_at] if each == GOOD]
    assert [each for each in passed if each == GOOD][: len(before)] == before


@pytest.mark.parametrize("reason", ["http-401", "http-403", "http-400", "http-429", "http-404", "missing"])
def test_three_shards_in_a_row_end_the_run(reason: str) -> None:
    refusals: Refusals[str] = Refusals(64)
    assert refusals.take(GOOD) == [GOOD]
    assert refusals.take(skipped(reason, -1)) == []
    assert refusals.take(skipped(reason, -1)) == []
    with pytest.raises(SourceError, match=rf"3 shards in a row could not be loaded \(3 {reason}\)"):
        refusals.take(skipped(reason, -1))


def test_two_refused_shards_at_the_end_end_the_run_but_two_that_are_not_there_do_not() -> None:
    refusals: Refusals[str] = Refusals(64)
    for reason in ("http-404", "http-403"):
        refusals.take(GOOD)
        refusals.take(skipped(reason, -1))
        assert len(refusals.take(skipped(reason, -1))) == 0
        if reason == "http-404":
            assert len(refusals.end()) == 2
    with pytest.raises(SourceError, match="renew it"):
        refusals.end()


def test_folders_that_may_not_be_read_count_as_single_samples() -> None:
    refusals: Refusals[str] = Refusals(64)
    for _ in range(10):
        refusals.take(skipped("unreadable-folder", -1))
    assert len(refusals.take(GOOD)) == 11


def test_none_passes_everything_on_at_once() -> None:
    refusals: Refusals[str] = Refusals(None)
    for number in range(200):
        assert refusals.take(skipped("http-403", number)) == [skipped("http-403", number)]
    assert refusals.end() == []
