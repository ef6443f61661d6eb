"""Grouping against a simple model: each sample once, in order, in batches within the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.feeder.bucket import Admitted, Grouper
from datago_gpu.sources.base import SampleRef

BUCKETS = [(64, 64), (48, 80), (80, 48), None]


def sample(index: int, bucket: tuple[int, int] | None, size: int = 1) -> Admitted:
    region = (0.0, 0.0, 8.0, 8.0)
    return Admitted(SampleRef(index, str(index)), bytes(size), (8, 8), 1, region, (8, 8), region, bucket)


def indices(batch: list[Admitted]) -> list[int]:
    return [each.ref.index for each in batch]


STREAMS = st.lists(st.tuples(st.sampled_from(BUCKETS), st.integers(1, 30)), max_size=60)


@given(STREAMS, st.integers(1, 5), st.integers(30, 80), st.integers(30, 100))
def test_every_sample_once_in_order_within_all_limits(
    stream: list[tuple[tuple[int, int] | None, int]], batch_size: int, batch_bytes: int, held_bytes: int
) -> None:
    grouper = Grouper(batch_size, batch_bytes, held_bytes)
    samples = [sample(index, bucket, size) for index, (bucket, size) in enumerate(stream)]
    batches: list[list[Admitted]] = []
    for number, each in enumerate(samples):
        batches += grouper.add(each)
        held = samples[: number + 1]
        gone = {index for batch in batches for index in indices(batch)}
        kept = [other for other in held if other.ref.index not in gone]
        assert len(grouper) == len(kept)
        assert sum(len(other.payload) for other in kept) <= held_bytes
    flushed = list(grouper.flush())
    assert len(grouper) == 0
    assert [batch[0].ref.index for batch in flushed] == sorted(batch[0].ref.index for batch in flushed)
    batches += flushed
    assert sorted(index for batch in batches for index in indices(batch)) == list(range(len(samples)))
    for batch in batches:
        assert len({each.bucket for each in batch}) == 1
        assert 1 <= len(batch) <= batch_size
        assert sum(len(each.payload) for each in batch) <= batch_bytes
    for bucket in BUCKETS:
        of_bucket = [index for batch in batches if batch[0].bucket == bucket for index in indices(batch)]
        assert of_bucket == [each.ref.index for each in samples if each.bucket == bucket]


@given(STREAMS, st.integers(1, 5))
def test_without_a_shortage_of_memory_a_batch_leaves_when_it_is_full(
    stream: list[tuple[tuple[int, int] | None, int]], batch_size: int
) -> None:
    grouper = Grouper(batch_size, 10**6, 10**6)
    model: dict[tuple[int, int] | None, list[int]] = {}
    for index, (bucket, size) in enumerate(stream):
        waiting = model.setdefault(bucket, [])
        waiting.append(index)
        expected = [model.pop(bucket)] if len(waiting) == batch_size else []
        assert [indices(batch) for batch in grouper.add(sample(index, bucket, size))] == expected
    assert sorted(map(indices, grouper.flush())) == sorted(model.values())


def test_a_sample_that_would_pass_the_bytes_of_a_batch_begins_the_next() -> None:
    grouper = Grouper(10, batch_bytes=10, held_bytes=1000)
    assert list(grouper.add(sample(0, (64, 64), 6))) == []
    assert list(map(indices, grouper.add(sample(1, (64, 64), 5)))) == [[0]]
    assert list(map(indices, grouper.add(sample(2, (64, 64), 5)))) == []
    assert list(map(indices, grouper.add(sample(3, (64, 64), 1)))) == [[1, 2]]


def test_where_all_held_together_is_too_much_the_heaviest_batch_leaves() -> None:
    grouper = Grouper(10, batch_bytes=100, held_bytes=10)
    list(grouper.add(sample(0, (64, 64), 2)))
    list(grouper.add(sample(1, (48, 80), 6)))
    assert list(map(indices, grouper.add(sample(2, (64, 64), 3)))) == [[1]]
    assert len(grouper) == 2


def test_what_is_dropped_does_not_come() -> None:
    grouper = Grouper(10, 100, 100)
    list(grouper.add(sample(0, (64, 64), 2)))
    grouper.drop()
    assert len(grouper) == 0
    assert list(grouper.flush()) == []
    assert list(grouper.add(sample(1, (64, 64), 2))) == []
    assert list(map(indices, grouper.flush())) == [[1]]
