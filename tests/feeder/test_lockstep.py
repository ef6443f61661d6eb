"""The feeder's main line in lockstep: what each rank sends, put together, is what the plan says, whatever is bad."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from datago_gpu import ConfigError
from datago_gpu.config import LoaderConfig
from datago_gpu.config.lockstep_rules import JUDGED_FROM
from datago_gpu.feeder import planned_walk, wire
from datago_gpu.feeder.lockstep import LockstepProduction
from datago_gpu.feeder.wire import Resume
from datago_gpu.plan.global_batches import GlobalBatches
from datago_gpu.plan.of_rows import bucket_numbers, plan_rows
from datago_gpu.plan.repeat import repeat
from datago_gpu.plan.taken import Taken as Part
from datago_gpu.plan.taken import continued, together_of
from datago_gpu.sources.reference import ListingDigest, Position, Refs, SampleRef, Skipped
from datago_gpu.sources.rows import Numbers, RowsSource
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.shuffle import permutation
from datago_gpu.sources.tally import Walked
from tests.feeder.test_production import Taken, Taker, stream
from tests.support.images import SHAPES, add_picture
from tests.support.tables import table_config

COUNT = 23
FAST = settings(max_examples=25)


class Pictures:
    """`Rows` of pictures in a folder, some of them missing, unlisted, without a size, or left out by `where`."""

    def __init__(self, root: Path, missing: set[int] = frozenset(), nameless: set[int] = frozenset(),
                 unsized: set[int] = frozenset(), filtered: set[int] = frozenset(),  # type: ignore[assignment]
                 count: int = COUNT) -> None:  # fmt: skip
        self.root, self.missing, self.nameless, self.count = root, missing, nameless, count
        self.filtered = filtered
        self.shapes = np.array([SHAPES[number * number % len(SHAPES)] for number in range(count)], np.int32)
        self.shapes[list(unsized)] = 0

    @property
    def listed(self) -> ListingDigest:
        return ListingDigest(self.count, "0123", whole=True)

    def __len__(self) -> int:
        return self.count

    def passing(self) -> NDArray[np.bool_] | None:
        return np.array([number not in self.filtered for number in range(self.count)]) if self.filtered else None

    def sizes(self) -> NDArray[np.int32]:
        return self.shapes

    async def read(self, numbers: Numbers) -> Refs:
        for number in map(int, numbers):
            await asyncio.sleep(0)
            if number in self.nameless:
                yield Skipped(number, str(number), "", "no-url")
                continue
            name = "gone" if number in self.missing else f"{number:03}.jpg"
            yield SampleRef(number, SampleInfo(str(number)), path=str(self.root / name))


class Listing:
    """The same pictures as a `Source` that is walked in their order, as a Dataroom's."""

    def __init__(self, rows: Pictures) -> None:
        self.rows, self.tally, self.passed_over = rows, Walked("pictures"), dict[str, int]()
        self.epoch_samples = None

    async def refs(self, start: Position) -> Refs:
        assert start == Position(start.epoch)
        self.tally.begin()
        async with aclosing(self.rows.read(range(self.rows.count))) as samples:
            async for sample in samples:
                self.tally.add(sample.id.encode())
                if isinstance(sample, SampleRef):
                    height, width = self.rows.shapes[sample.index].tolist()
                    sample.size = height, width
                yield Skipped.filtered(sample.index) if sample.index in self.rows.filtered else sample
        self.tally.end()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number, (height, width) in enumerate(Pictures(root).shapes.tolist()):
        add_picture(root / f"{number:03}.jpg", height, width, color=number)
    return root


def config_of(rank: int = 0, world_size: int = 1, **more: Any) -> LoaderConfig:
    return LoaderConfig.load(
        {
            "source_type": "db",
            "source_config": {"api_url": "http://localhost/api/", "rank": rank, "world_size": world_size},
            "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
            "http_config": {"max_payload_mb": 1, "concurrent_downloads": 4},
            "arena_mb": 2,
            "lockstep": True,
            **more,
        }
    )


class Places(Taker):
    """Records what is at each place: (id, real), as the decoder's side fills them."""

    def _hand_on(self, message: wire.EncodedBatch, writer: asyncio.StreamWriter) -> None:
        assert message.fills
        undecodable = set() if callable(self.undecodable) else self.undecodable
        ids, fills = message.ids, message.fills
        good = [row for row, id_ in enumerate(ids) if id_ not in undecodable and not fills.bad]
        rows, real = repeat(fills.rows, fills.real, good) if good else (fills.rows, [False] * len(fills.rows))
        writer.write(wire.frame(wire.Report(message.number, len(ids) - len(good))))
        self.skipped += message.skipped
        self.skipped += [
            Skipped(0, ids[row], "", "undecodable", epoch=message.epoch)
            for row in range(len(ids))
            if ids[row] in undecodable and row in message.counted and not fills.bad
        ]
        self.progress.begin(message.mark)
        self.progress.deliver(message.numbers, real.count(False))
        self._note_skips()
        shown = tuple((ids[row], was) for row, was in zip(rows, real, strict=True))
        self.taken.batches.append((message.epoch, message.bucket, shown))  # type: ignore[arg-type]
        self.taken.resumes.append(self.progress.resume())


def run(
    config: LoaderConfig,
    rows: Pictures,
    resume: Resume | None = None,
    *,
    shuffled: bool = True,
    walked: bool = False,
    **more: Any,
) -> Taken:
    async def load() -> Pictures:
        return rows

    source = Listing(rows) if walked else RowsSource(config, load, "rows", shuffled=shuffled, split="shuffled")
    return stream(config, resume, source=source, make=LockstepProduction, take=Places, **more)


def plan_of(config: LoaderConfig, rows: Pictures, epoch: int, taken: Sequence[Part] = ()) -> GlobalBatches:
    order, taken = permutation(len(rows), config.seed, epoch), continued(taken, together_of(config))
    return plan_rows(config, bucket_numbers(config, rows.sizes()), order, taken).batches


numbers = st.sets(st.integers(0, COUNT - 1), max_size=8)
batches = st.integers(1, 4).map(lambda count: {"batch_size": count}) | st.sampled_from(
    [{"batch_pixels": pixels} for pixels in (1, 8000, 12_000)]
)
"""How many samples a batch has: with 8000 pixels, 1 of 64 x 64 and 2 of the two other buckets; with 12,000, 2 and 3."""


@FAST
@given(numbers, numbers, numbers, st.integers(1, 3), batches, st.booleans(), st.integers(0, 9))
def test_all_ranks_deliver_the_plan_whatever_is_bad(
    root: Path, missing: set[int], undecodable: set[int], nameless: set[int], world_size: int, batch: dict[str, int],
    drop_last: bool, timing: int,
) -> None:  # fmt: skip
    rows = Pictures(root, missing, nameless)
    bad = {str(number) for number in missing | undecodable | nameless}
    ranks = [config_of(rank, world_size, **batch, epochs=2, drop_last=drop_last) for rank in range(world_size)]
    taken = [
        run(config, rows, undecodable={str(number) for number in undecodable}, timing=timing + rank)
        for rank, config in enumerate(ranks)
    ]
    plans = [plan_of(ranks[0], rows, epoch) for epoch in range(2)]
    steps = [(epoch, at) for epoch, plan in enumerate(plans) for at in range(len(plan))]
    assert all(isinstance(each.end, wire.Ended) for each in taken)
    assert {len(each.batches) for each in taken} == {len(steps)}
    for number, (epoch, at) in enumerate(steps):
        for rank in range(world_size):
            found = taken[rank].batches[number]
            assert found[:2] == (epoch, tuple(plans[epoch].buckets[at].tolist()))
            there = plans[epoch].step(at)
            wanted = plans[epoch].places[there][rank::world_size].tolist()
            real = plans[epoch].real_places[there][rank::world_size].tolist()
            good = {str(row) for row in wanted} - bad
            assert len(found[2]) == len(wanted) == ranks[0].samples_of(found[1])
            for (id_, is_real), row, was_real in zip(found[2], wanted, real, strict=True):  # type: ignore[misc]
                assert is_real == (was_real and str(row) not in bad)  # type: ignore[has-type]
                assert id_ == str(row) if str(row) in good else id_ in (good or bad)
    skips = sum((each.skips() for each in taken), Counter())
    planned = Counter(str(row) for plan in plans for row in plan.taken(len(plan)).tolist())
    assert Counter(id_ for _, id_, _ in skips.elements()) == Counter({id_: planned[id_] for id_ in bad if planned[id_]})
    dropped = sum(each.end.dropped for each in taken)  # type: ignore[union-attr]
    assert dropped == (sum(len(plan.left_out) for plan in plans) if drop_last else 0)


@FAST
@given(
    numbers,
    st.lists(st.tuples(st.integers(1, 3), batches, st.integers(0, 4)), max_size=3),
    st.integers(0, 9),
)
def test_a_stopped_epoch_goes_on_with_any_number_of_ranks(
    root: Path, missing: set[int], runs: list[tuple[int, dict[str, int], int]], timing: int
) -> None:
    """Whatever the world size and the size of the batches of each run: together, they bring each row once."""
    rows, seen, skips, resume = Pictures(root, missing), Counter[str](), Counter[str](), Resume()
    for world_size, batch, stop in [*runs, (2, {"batch_size": 2}, COUNT)]:
        behind = []
        for rank in range(world_size):
            config = config_of(rank, world_size, **batch)
            taken = run(config, rows, resume, timing=timing)
            kept = min(stop, len(taken.batches))
            seen.update(id_ for _, _, ids in taken.batches[:kept] for id_, real in ids if real)  # type: ignore[misc, has-type]
            skips.update(id_ for _, id_, _ in taken.skips(kept).elements())
            behind.append(taken.resumes[kept])
        assert all(each.taken == behind[0].taken for each in behind)
        resume = behind[0]
    assert seen == Counter(str(number) for number in range(COUNT) if number not in missing)
    assert skips == Counter(map(str, missing))


@FAST
@given(
    numbers,
    st.lists(st.tuples(st.integers(1, 3), batches, st.integers(0, 4)), max_size=2),
    st.booleans(),
    st.integers(0, 9),
)
def test_what_where_leaves_out_is_in_no_plan_however_often_an_epoch_is_stopped(
    root: Path, filtered: set[int], runs: list[tuple[int, dict[str, int], int]], walked: bool, timing: int
) -> None:
    rows, seen, resume = Pictures(root, filtered=filtered), Counter[str](), Resume()
    for world_size, batch, stop in [*runs, (2, {"batch_size": 2}, COUNT)]:
        behind, left_out = [], 0
        for rank in range(world_size):
            taken = run(config_of(rank, world_size, **batch), rows, resume, walked=walked, timing=timing)
            kept = min(stop, len(taken.batches))
            seen.update(id_ for _, _, ids in taken.batches[:kept] for id_, real in ids if real)  # type: ignore[misc, has-type]
            behind.append(taken.resumes[kept])
            left_out += taken.filtered
        resume = behind[0]
    assert seen == Counter(str(number) for number in range(COUNT) if number not in filtered)
    assert walked or left_out == len(filtered)  # a walk counts those behind the place where it begins


@FAST
@given(
    numbers,
    st.sampled_from([(1, 6), (2, 3), (3, 2), (6, 1)]),
    st.sampled_from([(1, 6), (2, 3), (6, 1)]),
    st.integers(0, 9),
)
def test_with_the_same_number_of_places_the_global_batches_are_those_of_a_run_that_never_stopped(
    root: Path, missing: set[int], before: tuple[int, int], behind: tuple[int, int], stop: int
) -> None:
    rows = Pictures(root)
    whole = run(config_of(batch_size=6, epochs=2), rows)
    first = run(config_of(0, before[0], batch_size=before[1], epochs=2), rows)
    stop = min(stop, len(first.batches))
    ranks = [
        run(config_of(rank, behind[0], batch_size=behind[1], epochs=2), rows, first.resumes[stop])
        for rank in range(behind[0])
    ]
    for number, batch in enumerate(whole.batches[stop:]):
        together = [list(each.batches[number][2]) for each in ranks]
        assert batch[2] == tuple(sample for place in zip(*together, strict=True) for sample in place)
    assert {len(each.batches) for each in ranks} == {len(whole.batches) - stop}


def test_rows_without_a_size_are_skipped_once_by_one_rank(root: Path) -> None:
    rows = Pictures(root, unsized={3, 4, 9})
    taken = [run(config_of(rank, 2, batch_size=2), rows) for rank in range(2)]
    skips = [each.skips() for each in taken]
    assert skips[0] + skips[1] == Counter({(0, str(number), "no-size"): 1 for number in (3, 4, 9)})
    assert all(skips)


def test_without_any_size_the_error_says_how_to_get_them(root: Path) -> None:
    taken = run(config_of(), Pictures(root, unsized=set(range(COUNT))))
    assert isinstance(taken.end, wire.Failed)
    assert "give each Row its width and height" in taken.end.message


def test_a_table_without_sizes_has_three_ways_to_get_them() -> None:
    top = {"lockstep": True, "image_config": {"crop_and_resize": True}}
    config = LoaderConfig.load(table_config("a.parquet", top=top))
    for sizes in (None, np.zeros((3, 2), np.int32)):
        with pytest.raises(ConfigError, match=r"name them .*datago-gpu index CONFIG --out .*add columns of sizes"):
            bucket_numbers(config, sizes)


def test_a_listing_without_any_size_is_an_error_before_all_of_it_is_walked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_walk, "_UNSIZED", 5)
    some = run(config_of(batch_size=4), Pictures(root, unsized=set(range(5))), walked=True)
    assert isinstance(some.end, wire.Ended)
    none = run(config_of(batch_size=4), Pictures(root, unsized=set(range(COUNT))), walked=True)
    assert isinstance(none.end, wire.Failed)
    assert "datago-gpu index CONFIG --out index.arrow" in none.end.message
    assert none.skips().total() <= 5


def test_a_limit_counts_whole_batches_also_after_a_resume(root: Path) -> None:
    rows, config = Pictures(root), config_of(batch_size=4, limit=11, epochs=None)
    whole = run(config, rows)
    assert len(whole.batches) == 2
    assert run(config, rows, whole.resumes[1]).batches == whole.batches[1:]
    assert run(config, rows, whole.resumes[2]).batches == []


@pytest.mark.parametrize("walked", [False, True])
def test_a_limit_ends_a_run_by_pixels_at_the_first_batch_that_exceeds_the_limit(root: Path, *, walked: bool) -> None:
    rows, limit = Pictures(root), 17
    endless = run(config_of(batch_pixels=12_000, epochs=3), rows, walked=walked)
    config = config_of(batch_pixels=12_000, limit=limit, epochs=None)
    whole = run(config, rows, walked=walked)
    lengths = [len(batch[2]) for batch in endless.batches]
    fitting = sum(sum(lengths[: number + 1]) <= limit for number in range(len(lengths)))
    assert {2, 3} == set(lengths)
    assert whole.batches == endless.batches[:fitting]
    for number in range(fitting + 1):
        assert run(config, rows, whole.resumes[number], walked=walked).batches == whole.batches[number:]


def test_a_batch_that_exceeds_the_arena_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    rows = Pictures(tmp_path, count=4)
    rows.shapes[:] = 500
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (500, 500, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number:03}.jpg", "PNG", compress_level=0)
    taken = run(config_of(batch_size=4), rows)
    assert isinstance(taken.end, wire.Failed)
    assert "raise arena_mb" in taken.end.message


@pytest.mark.parametrize("count", [COUNT, JUDGED_FROM])
def test_a_source_without_a_good_sample_does_not_repeat_for_ever(tmp_path: Path, count: int) -> None:
    """But the few samples that a rank may have of a small set say nothing about the data."""
    rows = Pictures(tmp_path, count=count, missing=set(range(count)))
    taken = run(config_of(batch_size=4, epochs=None, limit=8 * count, max_refused_in_a_row=None), rows)
    assert isinstance(taken.end, wire.Ended)
    assert taken.end.fruitless == (count == JUDGED_FROM)
    assert (4 * len(taken.batches) == 8 * count) == (count < JUDGED_FROM)
    assert not any(real for _, _, ids in taken.batches for _, real in ids)  # type: ignore[misc, has-type]


def test_a_changed_listing_is_refused_or_accepted(root: Path) -> None:
    config = config_of(batch_size=4)
    resume = run(config, Pictures(root)).resumes[3]
    fewer = run(config, Pictures(root, count=COUNT - 1), resume)
    assert isinstance(fewer.end, wire.Failed)
    assert "there are 22 rows, but there were 23" in fewer.end.message
    other_sizes = Pictures(root)
    other_sizes.shapes = other_sizes.shapes[::-1].copy()
    other = run(config, other_sizes, resume)
    assert isinstance(other.end, wire.Failed), "other sizes make other batches"
    assert "there are 23 rows as before, but some of them have changed" in other.end.message


@pytest.mark.parametrize("walked", [False, True])
def test_a_state_with_more_batches_than_there_are_is_refused_or_goes_on_with_the_next_epoch(
    root: Path, walked: bool
) -> None:
    rows, config = Pictures(root), config_of(batch_size=4, epochs=2)
    whole = run(config, rows, walked=walked)
    refused = run(config, rows, Resume(taken=[(3, 2), (4, 99)]), walked=walked)
    assert isinstance(refused.end, wire.Failed)
    assert (
        "fewer batches in epoch 0 than the state says were taken ([G, steps]: [(3, 2), (4, 99)])" in refused.end.message
    )
    accepted = run(config, rows, Resume(taken=[(4, 99)], accepts_change=True), walked=walked)
    assert accepted.batches == [batch for batch in whole.batches if batch[0] == 1]
