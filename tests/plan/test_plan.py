"""Which rows make up which global batch: columns at once, row after row, and a slow model agree."""

from __future__ import annotations

import time
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu.errors import Rejected
from datago_gpu.imaging.buckets import BucketChoice
from datago_gpu.imaging.geometry import BucketTable
from datago_gpu.plan.chain import places_seen, plan_rest
from datago_gpu.plan.global_batches import GlobalBatches, gathered, group
from datago_gpu.plan.row_buckets import TOO_SMALL, UNUSABLE, row_buckets
from datago_gpu.plan.stream_planner import Planned, StreamPlanner
from datago_gpu.plan.taken import MoreTaken, Taken, continued
from datago_gpu.sources.shuffle import permutation

SIZES = np.array([(64, 64), (32, 128), (32, 32)], np.int32)

Together = int | tuple[int, int]
pixels = st.tuples(st.sampled_from([1, 1024, 4096, 9000]), st.integers(1, 3))
"""batch_pixels and the number of ranks: G is 1 to 2, or 1 to 8 in the small bucket, on each rank."""
togethers: st.SearchStrategy[Together] = st.integers(1, 9) | pixels

rows_of = st.lists(st.integers(UNUSABLE, len(SIZES) - 1), max_size=40)
"""The bucket of each row."""
stops = st.lists(st.tuples(togethers, st.integers(0, 6)), max_size=3)
"""G and steps of runs that were stopped."""


def size_of(bucket: int, together: Together) -> int:
    """G of a bucket."""
    if isinstance(together, int):
        return together
    height, width = SIZES[bucket].tolist()
    return together[1] * max(1, together[0] // (height * width))


def planned(buckets: list[int], together: Together, seed: int) -> GlobalBatches:
    return group(permutation(len(buckets), seed, 0), np.array(buckets, np.int16), SIZES, together)


def as_lists(plan: GlobalBatches, first: int = 0) -> list[tuple[tuple[int, ...], list[int], list[bool]]]:
    steps = list(zip(plan.buckets.tolist(), plan.rows.tolist(), plan.real.tolist(), plan.counts.tolist(), strict=True))
    assert all(set(rows[count:]) <= {-1} and not any(real[count:]) for _, rows, real, count in steps)
    return [(tuple(bucket), rows[:count], real[:count]) for bucket, rows, real, count in steps][first:]


def model(buckets: list[int], order: NDArray[np.int64], together: Together) -> list[tuple[int, list[int]]]:
    """Bucket and distinct rows of each global batch, by sorting what a reader of the documentation would sort."""
    seen = [(buckets[row], place, row) for place, row in enumerate(order.tolist()) if buckets[row] != UNUSABLE]
    cut = [
        rows[at : at + size_of(bucket, together)]
        for bucket, of_bucket in groupby(sorted(seen), key=lambda each: each[0])
        for rows in [list(of_bucket)]
        for at in range(0, len(rows), size_of(bucket, together))
    ]
    full = sorted((rows for rows in cut if len(rows) == size_of(rows[0][0], together)), key=lambda rows: rows[-1][1])
    rest = sorted((rows for rows in cut if len(rows) < size_of(rows[0][0], together)), key=lambda rows: rows[0][1])
    return [(rows[0][0], [row for _, _, row in rows]) for rows in full + rest]


@given(rows_of, togethers, st.integers(0, 3))
def test_batches_are_complete_with_their_last_row_and_the_last_ones_are_filled(
    buckets: list[int], together: Together, seed: int
) -> None:
    expected = model(buckets, permutation(len(buckets), seed, 0), together)
    plan = planned(buckets, together, seed)
    assert as_lists(plan) == [
        (
            tuple(SIZES[bucket].tolist()),
            [rows[place % len(rows)] for place in range(size_of(bucket, together))],
            [place < len(rows) for place in range(size_of(bucket, together))],
        )
        for bucket, rows in expected
    ]
    assert sorted(plan.taken(len(plan)).tolist()) == [at for at, bucket in enumerate(buckets) if bucket != UNUSABLE]


@given(rows_of, togethers, st.integers(0, 3), st.integers(0, 9))
def test_drop_last_leaves_out_the_batches_that_are_not_complete(
    buckets: list[int], together: Together, seed: int, taken: int
) -> None:
    whole = planned(buckets, together, seed)
    taken = min(taken, len(whole))
    cut = whole.drop_last(taken)
    assert as_lists(cut) == [step for at, step in enumerate(as_lists(whole)) if at < taken or all(step[2])]
    rows = [*cut.taken(len(cut)).tolist(), *cut.left_out.tolist()]
    assert sorted(rows) == sorted(whole.taken(len(whole)).tolist())


@given(rows_of, st.integers(0, 3), stops, togethers, st.booleans())
def test_row_after_row_the_plan_is_that_of_whole_columns_however_often_it_was_stopped(
    buckets: list[int], seed: int, taken: list[tuple[Together, int]], together: Together, drop_last: bool
) -> None:
    order, bucket_of = permutation(len(buckets), seed, 0), np.array(buckets, np.int16)
    stopped = continued(taken, together)
    planner = StreamPlanner[int](stopped, drop_last=drop_last)
    found: list[Planned[int]] = []
    try:
        for row in order.tolist():
            if buckets[row] != UNUSABLE:
                found += planner.add(row, (int(SIZES[buckets[row], 0]), int(SIZES[buckets[row], 1])))
        found += planner.end()
    except MoreTaken:
        with pytest.raises(MoreTaken):
            plan_rest(order, bucket_of, SIZES, stopped, drop_last=drop_last)
        return
    plan = plan_rest(order, bucket_of, SIZES, stopped, drop_last=drop_last)
    widest = max(size_of(bucket, together) for bucket in range(len(SIZES)))
    assert as_lists(gathered(found, together, widest, [])) == as_lists(plan, stopped[-1][1])
    assert planner.left_out == plan.left_out.tolist()


@given(rows_of, st.integers(0, 3), st.lists(st.tuples(togethers, st.floats(0, 1)), max_size=4), togethers)
def test_a_stopped_epoch_goes_on_with_exactly_the_rest(
    buckets: list[int], seed: int, runs: list[tuple[Together, float]], together: Together
) -> None:
    order, bucket_of = permutation(len(buckets), seed, 0), np.array(buckets, np.int16)
    seen, taken = [], list[tuple[Together, int]]()
    for each, share in [*runs, (together, 1.0)]:
        taken = continued(taken, each)
        rest, done = plan_rest(order, bucket_of, SIZES, taken), taken[-1][1]
        until = done + round(share * (len(rest) - done))
        assert rest.rows.shape == (len(rest), max(size_of(bucket, each) for bucket in range(len(SIZES))))
        seen += rest.rows[done:until][rest.real[done:until]].tolist()
        taken[-1] = (each, until)
    assert sorted(seen) == [at for at, bucket in enumerate(buckets) if bucket != UNUSABLE]


@given(rows_of, st.integers(0, 3), togethers, st.integers(0, 9))
def test_with_the_same_number_of_places_the_rest_is_that_of_a_run_that_never_stopped(
    buckets: list[int], seed: int, together: Together, steps: int
) -> None:
    plan = planned(buckets, together, seed)
    again = plan_rest(
        permutation(len(buckets), seed, 0), np.array(buckets, np.int16), SIZES,
        continued([(together, min(steps, len(plan)))], together),
    )  # fmt: skip
    assert as_lists(again) == as_lists(plan)


@given(rows_of, st.integers(0, 3), st.integers(0, 9))
def test_batches_of_as_many_pixels_on_more_ranks_are_the_same_where_the_numbers_of_samples_are(
    buckets: list[int], seed: int, steps: int
) -> None:
    """One rank of 8192 pixels, two of 4096: the bucket of 1024 pixels has 8 places, the others have 2."""
    order, bucket_of = permutation(len(buckets), seed, 0), np.array(buckets, np.int16)
    whole = planned(buckets, (8192, 1), seed)
    steps = min(steps, whole.complete)
    rest = plan_rest(order, bucket_of, SIZES, continued([((8192, 1), steps)], (4096, 2)))
    assert as_lists(rest) == as_lists(whole, steps)


def number_of(height: int, width: int, choice: BucketChoice) -> int:
    """The number of one row's bucket, or UNUSABLE, or TOO_SMALL."""
    if height <= 0 or width <= 0:
        return UNUSABLE
    try:
        return choice.sizes.index(choice.bucket(height, width))
    except Rejected:
        return TOO_SMALL


TABLES = [BucketTable(64, 16, 0.5, 2), BucketTable(512, 32, 0.5, 2), BucketTable(64, 64, 1, 1)]
choices = st.builds(
    lambda tables, upscale, edge: BucketChoice(
        sorted(tables, key=lambda table: -table.sizes[0][0]), upscale=upscale, least_edge=edge
    ),
    st.lists(st.sampled_from([*TABLES, BucketTable(128, 16, 0.3, 2), BucketTable(256, 16, 1, 3)]), min_size=1),
    st.booleans(),
    st.sampled_from([0, 0, 50, 200]),
)


@given(choices, st.lists(st.tuples(st.integers(0, 600), st.integers(0, 600)), max_size=50))
def test_the_bucket_of_a_row_is_that_of_its_image(choice: BucketChoice, sizes: list[tuple[int, int]]) -> None:
    found = row_buckets(np.array(sizes, np.int32).reshape(-1, 2), choice)
    assert found.tolist() == [number_of(height, width, choice) for height, width in sizes]


def test_ties_between_two_buckets_are_those_of_one_row() -> None:
    table = BucketTable(512, 32, 0.5, 2)
    choice = BucketChoice([table])
    sizes = np.array(
        [(1000, round((low + high) * 500)) for low, high in zip(table.aspects, table.aspects[1:], strict=False)],
        np.int32,
    )
    assert row_buckets(sizes, choice).tolist() == [number_of(*size, choice) for size in sizes.tolist()]


@pytest.mark.parametrize("together", [1024, (4 << 20, 64)])
def test_a_million_rows_are_planned_in_a_second_of_this_processor(together: Together) -> None:
    choice = BucketChoice([BucketTable(size, 32, 0.5, 2) for size in ((512,) if together == 1024 else (1024, 512))])
    sizes = np.random.default_rng(1).integers(400, 2000, (1_000_000, 2), np.int32)
    clock = time.thread_time()
    bucket_of = row_buckets(sizes, choice)
    plan = group(permutation(len(sizes), 0, 0), bucket_of, np.array(choice.sizes, np.int32), together)
    spent = time.thread_time() - clock
    assert plan.real_places.sum() == len(sizes)
    assert spent < 4, "usually 0.4 s: four times the second that is promised, for loaded machines"


@given(rows_of, stops, st.integers(0, 3))
def test_batches_taken_depend_only_on_the_places_seen(buckets: list[int], taken: list[Taken], seed: int) -> None:
    """Whatever the rest of the order becomes, the batches taken are the same."""
    order, bucket_of = permutation(len(buckets), seed, 0), np.array(buckets, np.int16)
    try:
        seen = places_seen(order, bucket_of, SIZES, taken)
    except MoreTaken:
        return
    for other in (order[:seen], np.concatenate([order[:seen], np.sort(order[seen:])])):
        assert _taken_rows(other, bucket_of, taken) == _taken_rows(order, bucket_of, taken)


def _taken_rows(order: NDArray[np.int64], bucket_of: NDArray[np.int16], taken: list[Taken]) -> list[list[int]]:
    found: list[list[int]] = []
    for each, count in taken:
        batches = group(order, bucket_of, SIZES, each)
        found.append(batches.taken(count).tolist())
        order = order[~np.isin(order, found[-1])]
    return found
