"""Grouping against a simple model: each sample once, in order, in batches within the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.feeder.admit_parts import AdmittedPart
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.grouper import Grouper
from datago_gpu.feeder.message import Layout
from datago_gpu.sources.reference import SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.units import ALIGNMENT

BUCKETS = [(64, 64), (48, 80), (80, 48), None]


def sample(index: int, bucket: tuple[int, int] | None, size: int = ALIGNMENT, parts: tuple[int, ...] = ()) -> Admitted:
    """One whose image has so many bytes, and each of its latents."""
    region = (0.0, 0.0, 8.0, 8.0)
    ref = SampleRef(index, SampleInfo(str(index), attributes=b""))
    latents = [AdmittedPart(str(number), "latent", bytes(length)) for number, length in enumerate(parts)]
    return Admitted(ref, bytes(size), (8, 8), 1, region, (8, 8), region, bucket, latents)


def indices(batch: list[Admitted]) -> list[int]:
    return [each.ref.index for each in batch]


A = ALIGNMENT
SIZES = st.integers(1, 30 * A)
STREAMS = st.lists(st.tuples(st.sampled_from(BUCKETS), SIZES), max_size=60)


@given(STREAMS, st.integers(1, 5), st.integers(30 * A, 80 * A), st.integers(30 * A, 100 * A))
def test_every_sample_once_in_order_within_all_limits(
    stream: list[tuple[tuple[int, int] | None, int]], batch_size: int, batch_bytes: int, held_bytes: int
) -> None:
    grouper = Grouper(lambda _: batch_size, batch_bytes, held_bytes)
    samples = [sample(index, bucket, size) for index, (bucket, size) in enumerate(stream)]
    batches: list[list[Admitted]] = []
    for number, each in enumerate(samples):
        batches += grouper.add(each)
        held = samples[: number + 1]
        gone = {index for batch in batches for index in indices(batch)}
        kept = [other for other in held if other.ref.index not in gone]
        assert len(grouper) == len(kept)
        assert sum(other.bytes for other in kept) <= held_bytes
    flushed = list(grouper.flush())
    assert len(grouper) == 0
    assert [batch[0].ref.index for batch in flushed] == sorted(batch[0].ref.index for batch in flushed)
    batches += flushed
    assert sorted(index for batch in batches for index in indices(batch)) == list(range(len(samples)))
    for batch in batches:
        assert len({each.bucket for each in batch}) == 1
        assert 1 <= len(batch) <= batch_size
        assert sum(each.bytes for each in batch) <= batch_bytes
    for bucket in BUCKETS:
        of_bucket = [index for batch in batches if batch[0].bucket == bucket for index in indices(batch)]
        assert of_bucket == [each.ref.index for each in samples if each.bucket == bucket]


@given(
    st.lists(st.tuples(st.sampled_from(BUCKETS), st.integers(0, 9 * A), st.lists(st.integers(1, 9 * A), max_size=4))),
    st.integers(1, 40),
    st.integers(1, 60),
)
def test_a_batch_of_several_lies_within_the_bytes_of_a_batch(
    stream: list[tuple[tuple[int, int] | None, int, list[int]]], batch_size: int, pieces: int
) -> None:
    """With all that lies between its payloads, each of which begins at a multiple of ALIGNMENT."""
    grouper = Grouper(lambda _: batch_size, pieces * A, 10**9)
    batches = [
        batch
        for index, (bucket, size, parts) in enumerate(stream)
        for batch in grouper.add(sample(index, bucket, size, tuple(parts)))
    ]
    for batch in [*batches, *grouper.flush()]:
        assert Layout(batch).size == sum(each.arena_bytes for each in batch)
        assert len(batch) == 1 or Layout(batch).size <= pieces * A


@given(st.lists(st.tuples(st.sampled_from([None, (64, 64)]), st.integers(1, 9), st.integers(0, 9)), max_size=40))
def test_a_batch_of_images_of_their_own_sizes_has_no_more_pixels_than_allowed(
    stream: list[tuple[tuple[int, int] | None, int, int]],
) -> None:
    """Where they are cut, the settings say how large they are. One that is larger is a batch of its own."""
    grouper = Grouper(lambda _: 5, 10**9, 10**9, whole_pixels=100)
    batches: list[list[Admitted]] = []
    for index, (bucket, side, mask) in enumerate(stream):
        each = sample(index, bucket)
        each.size = (side, side)
        each.parts = [AdmittedPart("mask", "mask", b"", (mask, mask))]
        batches += grouper.add(each)
    batches += grouper.flush()
    assert sorted(index for batch in batches for index in indices(batch)) == list(range(len(stream)))
    for batch in batches:
        pixels = sum(each.pixels for each in batch)
        assert len(batch) == 1 or batch[0].bucket is not None or pixels <= 100
    cut = [index for batch in batches if batch[0].bucket for index in indices(batch)]
    assert sorted(map(len, [batch for batch in batches if batch[0].bucket])) == sorted(
        len(cut[at : at + 5]) for at in range(0, len(cut), 5)
    )


def test_attributes_count_where_samples_are_held() -> None:
    grouper = Grouper(lambda _: 10, batch_bytes=10 * A, held_bytes=10**9)
    large = sample(0, (64, 64))
    large.ref.info = SampleInfo("", attributes=bytes(10 * A))
    list(grouper.add(large))
    assert list(map(indices, grouper.add(sample(1, (64, 64))))) == [[0]]


def test_a_batch_holds_attributes_and_tags_up_to_a_limit() -> None:
    grouper = Grouper(lambda _: 10, 10**9, 10**9, most_words=100)
    found: list[list[int]] = []
    for index, size in enumerate((60, 40, 1, 200, 3, 30)):
        each = sample(index, (64, 64))
        tags = ["a tag"] if index == 5 else []
        each.ref.info = SampleInfo("", attributes=bytes(size), tags=tags)
        found += map(indices, grouper.add(each))
    assert [*found, *map(indices, grouper.flush())] == [[0, 1], [2], [3], [4, 5]]


@given(STREAMS, st.integers(1, 5))
def test_without_a_shortage_of_memory_a_batch_leaves_when_it_is_full(
    stream: list[tuple[tuple[int, int] | None, int]], batch_size: int
) -> None:
    grouper = Grouper(lambda _: batch_size, 10**6, 10**6)
    model: dict[tuple[int, int] | None, list[int]] = {}
    for index, (bucket, size) in enumerate(stream):
        waiting = model.setdefault(bucket, [])
        waiting.append(index)
        expected = [model.pop(bucket)] if len(waiting) == batch_size else []
        assert [indices(batch) for batch in grouper.add(sample(index, bucket, size))] == expected
    assert sorted(map(indices, grouper.flush())) == sorted(model.values())


def test_a_sample_that_would_pass_the_bytes_of_a_batch_begins_the_next() -> None:
    grouper = Grouper(lambda _: 10, batch_bytes=10 * A, held_bytes=1000 * A)
    assert list(grouper.add(sample(0, (64, 64), 6 * A))) == []
    assert list(map(indices, grouper.add(sample(1, (64, 64), 5 * A)))) == [[0]]
    assert list(map(indices, grouper.add(sample(2, (64, 64), 5 * A)))) == []
    assert list(map(indices, grouper.add(sample(3, (64, 64), 1 * A)))) == [[1, 2]]


def test_where_all_held_together_is_too_much_the_heaviest_batch_leaves() -> None:
    grouper = Grouper(lambda _: 10, batch_bytes=100 * A, held_bytes=10 * A)
    list(grouper.add(sample(0, (64, 64), 2 * A)))
    list(grouper.add(sample(1, (48, 80), 6 * A)))
    assert list(map(indices, grouper.add(sample(2, (64, 64), 3 * A)))) == [[1]]
    assert len(grouper) == 2
