"""Positions: after any delivery, what was handed out and what `resume` still asks for are everything exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.grouper import Grouper
from datago_gpu.feeder.wire import Mark, Resume
from datago_gpu.loader.progress import Progress
from datago_gpu.sources.reference import Position, SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo

BAD = -1
"""A stream is a list of bucket numbers; this one stands for a sample that is skipped."""
STREAMS = st.lists(st.sampled_from([BAD, 1, 2, 3]), max_size=40)


def rest_of(count: int, resume: Resume) -> list[int]:
    """The samples of an epoch that a feeder lists when it begins at `resume`."""
    done = {index for first, last in resume.done for index in range(first, last + 1)}
    return [index for index in range(resume.position.index, count) if index not in done]


def batches_of(stream: list[int], indices: list[int], batch_size: int) -> Iterator[tuple[list[int], int, list[int]]]:
    """What a feeder sends that lists these samples: the indices of each batch, the first sample that is listed and
    neither sent nor skipped by then (else the last one listed), and the skips since the batch before."""
    grouper = Grouper(lambda _: batch_size, 10**9, 10**9)
    outstanding: dict[int, None] = {}
    skipped: list[int] = []
    newest = 0

    def tell(batch: list[Admitted]) -> tuple[list[int], int, list[int]]:
        sent = [sample.ref.index for sample in batch]
        for index in sent:
            del outstanding[index]
        told, skipped[:] = skipped[:], []
        return sent, next(iter(outstanding), newest), told

    for newest in indices:
        if stream[newest] == BAD:
            skipped.append(newest)
            continue
        outstanding[newest] = None
        region = (0.0, 0.0, 1.0, 1.0)
        bucket = (stream[newest], 1)
        for batch in grouper.add(
            Admitted(SampleRef(newest, SampleInfo("")), b"x", (1, 1), 1, region, (1, 1), region, bucket)
        ):
            yield tell(batch)
    for batch in grouper.flush():
        yield tell(batch)


def skips(indices: list[int], epoch: int = 0) -> list[Skipped]:
    return [Skipped(index, "", "", "bad", epoch=epoch) for index in indices]


@given(STREAMS, st.integers(1, 5), st.lists(st.integers(0, 6), max_size=6))
def test_what_was_handed_out_and_the_rest_are_everything_once_however_often_resumed(
    stream: list[int], batch_size: int, stops: list[int]
) -> None:
    resume, seen = Resume(), []
    for stop in [*stops, len(stream) + 1]:
        progress = Progress(resume)
        for _, (sent, first, skipped) in zip(
            range(stop), batches_of(stream, rest_of(len(stream), resume), batch_size), strict=False
        ):
            progress.begin(Mark(Position(0, first)))
            progress.skip(skips(skipped))
            progress.deliver(sent)
            seen += sent
        resume = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(progress.resume()))), Resume)
        good = [index for index in rest_of(len(stream), resume) if stream[index] != BAD]
        assert sorted(seen + good) == [index for index, bucket in enumerate(stream) if bucket != BAD]
        assert resume.delivered == len(seen)
    assert not good


@given(STREAMS, st.integers(1, 5), st.integers(0, 45))
def test_single_samples_can_be_counted_in_the_middle_of_a_batch(stream: list[int], batch_size: int, taken: int) -> None:
    progress, seen = Progress(Resume()), []
    for sent, first, skipped in batches_of(stream, list(range(len(stream))), batch_size):
        if len(seen) < taken:
            progress.begin(Mark(Position(0, first)))
            progress.skip(skips(skipped))
        for index in sent[: taken - len(seen)]:
            progress.deliver([index])
            seen.append(index)
    good = [index for index in rest_of(len(stream), progress.resume()) if stream[index] != BAD]
    assert sorted(seen + good) == [index for index, bucket in enumerate(stream) if bucket != BAD]
    assert progress.delivered == len(seen)


def test_a_new_loader_begins_at_the_beginning() -> None:
    assert Progress(Resume()).resume() == Resume()


def test_resuming_at_once_changes_nothing() -> None:
    resume = Resume(Position(3, 10, "cursor"), [(12, 15), (17, 17)], 99)
    assert Progress(resume).resume() == resume


def test_the_source_s_cursor_is_kept_with_the_position_that_it_belongs_to() -> None:
    progress = Progress(Resume())
    progress.begin(Mark(Position(0, 4, "page 2")))
    progress.deliver([0, 1, 2, 3, 6])
    assert progress.resume() == Resume(Position(0, 4, "page 2"), [(6, 6)], 5)


def test_a_batch_that_is_half_handed_out_is_begun_where_it_is_missing() -> None:
    """The feeder's mark lies behind it, so that its cursor is of no use."""
    progress = Progress(Resume())
    progress.begin(Mark(Position(0, 4, "page 2")))
    for index in (0, 1, 3):
        progress.deliver([index])
    assert progress.resume() == Resume(Position(0, 2), [(3, 3)], 3)


def test_an_epoch_begins_with_nothing_done() -> None:
    progress = Progress(Resume())
    progress.begin(Mark(Position(0, 2)))
    progress.deliver([0, 1, 5])
    progress.begin(Mark(Position(1, 1)))
    progress.deliver([0])
    assert progress.resume() == Resume(Position(1, 1), [], 4)


def test_a_skip_of_the_epoch_before_does_not_count_in_this_one() -> None:
    """One at the end of an epoch travels with the first batch of the next, in which a shuffle gives the number to
    another sample."""
    progress = Progress(Resume())
    progress.begin(Mark(Position(1, 1)))
    progress.skip(skips([2], epoch=0))
    progress.deliver([0])
    assert rest_of(4, progress.resume()) == [1, 2, 3]


def test_a_skip_that_is_no_sample_is_not_counted() -> None:
    progress = Progress(Resume())
    progress.skip(skips([-1]))
    assert progress.resume() == Resume()


@given(st.sets(st.integers(0, 300)))
def test_what_is_kept_is_as_long_as_there_are_holes(delivered: set[int]) -> None:
    progress = Progress(Resume())
    for index in sorted(delivered):
        progress.deliver([index])
    resume = progress.resume()
    assert rest_of(301, resume) == [index for index in range(301) if index not in delivered]
    holes = set(range(max(delivered, default=-1))) - delivered
    assert len(resume.done) <= len(holes) + 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=6), st.sets(st.integers(0, 40)))
def test_samples_that_where_leaves_out_are_done_as_if_each_were_told_of_alone(
    ranges: list[tuple[int, int]], delivered: set[int]
) -> None:
    together, alone = Progress(Resume()), Progress(Resume())
    for progress in (together, alone):
        progress.deliver(sorted(delivered))
    together.skip(Skipped.filtered(first, count) for first, count in ranges)
    alone.skip(Skipped.filtered(index) for first, count in ranges for index in range(first, first + count))
    assert together.resume() == alone.resume()


def test_what_is_skipped_before_the_first_batch_of_an_epoch_is_done_once_the_epoch_begins() -> None:
    progress = Progress(Resume())
    progress.skip([Skipped(0, "a", "", "empty", epoch=1), msgspec.structs.replace(Skipped.filtered(1, 4), epoch=1)])
    assert progress.resume() == Resume()
    progress.begin(Mark(Position(1, 7)))
    progress.deliver([5, 6])
    assert progress.resume().position == Position(1, 7)
    assert rest_of(9, progress.resume()) == [7, 8]
