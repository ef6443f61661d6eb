"""A mix gives the samples of its sources in one order, resumes anywhere, and goes on with other weights."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.mix.mix_source import Mix
from datago_gpu.sources.mix.turns import pass_number, passes_before, whole_weights
from datago_gpu.sources.reference import ListingDigest, PartlyDone, Position, Refs, SampleRef, Skipped, Source, Tally
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.tally import Passed, Walked
from tests.support.shards import tar_bytes
from tests.support.shares import assert_shares

ALL = 10**6
BEGIN = Position()

Kind = tuple[int, bool, bool, bool]
Weights = Sequence[float]


class Fake:
    """A source of `count` samples, in another order in each pass. With `walked`, the order is always the same, and the
    listing goes on from a cursor. fails_at: the sample before which it fails."""

    def __init__(
        self, name: str, count: int, *, walked: bool, losses: bool = False, filters: bool = False, fails_at: int = -1
    ) -> None:
        self._name, self._count, self._walked, self._losses, self.filters = name, count, walked, losses, filters
        self.fails_at = fails_at
        self.tally: Tally = Walked("samples") if walked else Tally()
        self.listed = 0
        self.passed_over: dict[str, int] = {}
        self.epoch_samples = None

    def ids(self, number: int) -> list[str]:
        found = [f"{self._name}{at}" for at in range(self._count)]
        if not self._walked:
            Random(number).shuffle(found)
        return found

    def passing(self, number: int) -> list[str]:
        """The ids of a pass, less what `where` leaves out."""
        return [each for index, each in enumerate(self.ids(number)) if not self._leaves_out(index)]

    def _leaves_out(self, index: int) -> bool:
        return self.filters and index % 3 == 1

    def _of(self, index: int, name: str, cursor: str) -> Iterator[SampleRef | Skipped]:
        if self._losses and index % 3 == 1:
            yield Skipped(-1, "", f"{self._name}.tar", "cut-short")
        if self._leaves_out(index):
            yield Skipped.filtered(index)
        elif self._losses and index % 4 == 2:
            yield Skipped(index, name, name, "bad")
        else:
            yield SampleRef(index, SampleInfo(name), cursor=cursor)

    async def refs(self, start: Position) -> Refs:
        first = 0
        if isinstance(self.tally, Walked):
            place = Passed.parse(start.cursor)
            first = place.before
            self.tally.begin(place)
        assert first <= start.index
        for index, each in enumerate(self.ids(start.epoch)):
            if index < first:
                continue
            cursor = ""
            if isinstance(self.tally, Walked):
                cursor = self.tally.at("").cursor
                self.tally.add(each.encode())
            self.listed += 1
            if index < start.index:
                continue
            if index == self.fails_at:
                raise SourceError("the disk is gone")
            await asyncio.sleep(0)
            for sample in self._of(index, each, cursor):
                yield sample
        if isinstance(self.tally, Walked):
            self.tally.end()


def mix_of(fakes: Sequence[Fake], weights: Sequence[float], stop: Literal["first", "all"] = "all") -> Mix:
    parts = [
        {
            "name": f"s{at}",
            "source_type": "file",
            "weight": weight,
            "source_config": {"root_path": "x", "where": 'id != ""' if fake.filters else ""},
        }
        for at, (fake, weight) in enumerate(zip(fakes, weights, strict=True))
    ]
    config = LoaderConfig.load({"source_type": "mix", "source_config": {"sources": parts, "stop": stop}})
    return Mix(config, {f"s{at}": fake for at, fake in enumerate(fakes)})


def seen(sample: SampleRef | Skipped) -> Any:
    if isinstance(sample, Skipped):
        return sample.mix, sample.id, sample.reason
    assert sample.info.pass_number is not None
    return sample.info.mix, sample.info.pass_number, sample.id


async def walk(mix: Source, start: Position, most: int = ALL) -> list[tuple[Any, str, ListingDigest]]:
    """What each sample is, its cursor, and what was listed by then. Losses, which have no number, are left out."""
    found: list[tuple[Any, str, ListingDigest]] = []
    async with aclosing(mix.refs(start)) as refs:
        async for sample in refs:
            if sample.index < 0:
                assert isinstance(sample, Skipped)
                assert sample.mix
                continue
            assert sample.index == start.index + len(found)
            cursor = sample.cursor if isinstance(sample, SampleRef) else ""
            listed = mix.tally.listed
            assert listed is not None
            found.append((seen(sample), cursor, listed))
            if len(found) == most:
                break
    return found


def samples(mix: Mix, start: Position = BEGIN, most: int = ALL) -> list[Any]:
    return [each for each, _, _ in asyncio.run(walk(mix, start, most))]


kinds = st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=4)
"""Number of samples, whether walked, with losses, with a `where`: of each source."""
stops = st.sampled_from(["first", "all"])


def fakes_of(given_kinds: list[Kind]) -> list[Fake]:
    names = "abcd"
    return [
        Fake(names[at], count, walked=walked, losses=losses, filters=filters)
        for at, (count, walked, losses, filters) in enumerate(given_kinds)
    ]


def draw_weights(data: st.DataObject, count: int) -> list[float]:
    weights = st.sampled_from([0, 1, 2, 5, 0.5, 0.3])
    return data.draw(st.lists(weights, min_size=count, max_size=count).filter(any))


def by_name(weights: Sequence[float]) -> dict[str, float]:
    return {f"s{at}": weight for at, weight in enumerate(weights)}


@given(kinds, stops, st.data(), st.integers(0, 3))
def test_shares_are_exact_and_each_pass_has_each_sample_once(
    given_kinds: list[Kind], stop: Literal["first", "all"], data: st.DataObject, epoch: int
) -> None:
    weights = draw_weights(data, len(given_kinds))
    found = samples(mix_of(fakes_of(given_kinds), weights, stop), Position(epoch))
    assert_shares([name for name, *_ in found], by_name(weights))
    taken = Counter(name for name, *_ in found)
    for at, fake in enumerate(fakes_of(given_kinds)):
        mine = [each for each in found if each[0] == f"s{at}"]
        ids = [each[2] if isinstance(each[1], int) else each[1] for each in mine]
        whole = [each for before in range(len(mine) + 1) for each in fake.passing(pass_number(epoch, before))]
        assert ids == whole[: len(ids)]
    counts = [len(fake.passing(0)) for fake in fakes_of(given_kinds)]
    ended = [taken[f"s{at}"] >= count for at, count in enumerate(counts) if weights[at]]
    assert any(ended) if stop == "first" else all(ended)
    assert stop == "all" or all(taken[f"s{at}"] <= count for at, count in enumerate(counts))


def resumed(
    index: int, cursor: str, listed: ListingDigest, done: Sequence[tuple[int, int]] = (), epoch: int = 0
) -> PartlyDone:
    kept = msgspec.json.decode(msgspec.json.encode(listed), type=ListingDigest)
    return PartlyDone.behind(Position(epoch, index, cursor), done, kept)


@settings(max_examples=40)
@given(kinds, stops, st.data(), st.booleans())
def test_a_mix_resumes_at_any_sample_with_and_without_a_cursor(
    given_kinds: list[Kind], stop: Literal["first", "all"], data: st.DataObject, later: bool
) -> None:
    """later: the state was saved when further samples were listed, as is usual."""
    weights = draw_weights(data, len(given_kinds))
    found = asyncio.run(walk(mix_of(fakes_of(given_kinds), weights, stop), Position(2)))
    whole = [each for each, _, _ in found]
    for index in {*data.draw(st.lists(st.integers(0, len(found) - 1), max_size=6)), 0, len(found) - 1}:
        cursor = found[index][1]
        listed = found[min(len(found) - 1, index + (3 if later else 0))][2]
        for place in {cursor, ""}:
            start = resumed(index, place, listed, epoch=2)
            mix = mix_of(fakes_of(given_kinds), weights, stop)
            mix.tally.expect(listed, accepts=False)
            assert samples(mix, start) == whole[index:]
            assert not mix.tally.pending


@settings(max_examples=60)
@given(kinds, st.data())
def test_new_weights_hold_from_behind_the_last_sample_that_is_done(
    given_kinds: list[Kind], data: st.DataObject
) -> None:
    """Shares are exact again from there on; what was listed before stays where it was. Changes may follow others."""
    first, second, third = (draw_weights(data, len(given_kinds)) for _ in range(3))
    found = asyncio.run(walk(mix_of(fakes_of(given_kinds), first), Position()))
    index = data.draw(st.integers(0, len(found) - 1))
    done = data.draw(st.integers(index, len(found) - 1))
    cursor = data.draw(st.sampled_from([found[index][1], ""]))
    start = resumed(index, cursor, found[index][2], [(done, done)])
    later = asyncio.run(walk(mix_of(fakes_of(given_kinds), second), start))
    assert [each for each, _, _ in later][: done + 1 - index] == [each for each, _, _ in found][index : done + 1]
    if whole_weights(first) != whole_weights(second):  # else the places of all samples stay what they were
        assert_shares([name for (name, *_), _, _ in later[done + 1 - index :]], by_name(second))
    if not later:
        return
    again = data.draw(st.integers(0, len(later) - 1))
    start = resumed(index + again, data.draw(st.sampled_from([later[again][1], ""])), later[-1][2])
    assert samples(mix_of(fakes_of(given_kinds), second), start) == [each for each, _, _ in later][again:]
    last = asyncio.run(walk(mix_of(fakes_of(given_kinds), third), start))
    if whole_weights(second) != whole_weights(third):
        assert_shares([name for (name, *_), _, _ in last], by_name(third))


def test_a_source_that_fails_is_named_after_the_samples_before() -> None:
    mix = mix_of([Fake("a", 9, walked=True), Fake("b", 9, walked=True, fails_at=2)], [2, 1])
    found: list[Any] = []

    def note(sample: SampleRef | Skipped) -> None:
        found.append(seen(sample))

    async def run() -> None:
        async with aclosing(mix.refs(Position())) as refs:
            async for sample in refs:
                note(sample)

    with pytest.raises(SourceError, match=r"source 's1' of the mix: the disk is gone"):
        asyncio.run(run())
    assert [name for name, *_ in found] == ["s0", "s0", "s1", "s0", "s0", "s1", "s0", "s0"]


def test_a_source_without_samples_is_an_error_that_names_it() -> None:
    with pytest.raises(SourceError, match="source 's1' of the mix has no samples"):
        samples(mix_of([Fake("a", 9, walked=True), Fake("b", 0, walked=True)], [2, 1]))
    assert len(samples(mix_of([Fake("a", 9, walked=True), Fake("b", 0, walked=True)], [2, 0]))) == 9


def test_changed_data_of_one_source_is_refused_by_its_name() -> None:
    found = asyncio.run(walk(mix_of([Fake("a", 9, walked=True), Fake("b", 9, walked=True)], [1, 1]), Position()))
    changed = mix_of([Fake("a", 9, walked=True), Fake("c", 9, walked=True)], [1, 1])
    _, _, listed = found[9]
    changed.tally.expect(listed, accepts=False)
    with pytest.raises(ConfigError, match=r"source 's1' of the mix: the data has changed since the state was saved"):
        samples(changed, resumed(9, "", listed))


def test_a_state_of_another_number_of_sources_is_no_state() -> None:
    listed = asyncio.run(walk(mix_of([Fake("a", 9, walked=True)], [1]), Position()))[3][2]
    mix = mix_of([Fake("a", 9, walked=True), Fake("b", 9, walked=True)], [1, 1])
    with pytest.raises(ConfigError, match="not the state of a mix of 2 sources"):
        mix.tally.expect(listed, accepts=False)
    with pytest.raises(ConfigError, match="not the state of a mix"):
        mix.tally.expect(ListingDigest(0, "", samples="{"), accepts=False)


def test_a_resumed_source_goes_on_from_its_cursor() -> None:
    long = [Fake("a", 2000, walked=True), Fake("b", 2000, walked=True)]
    found = asyncio.run(walk(mix_of(long, [1, 1]), Position()))
    _, cursor, listed = found[3900]
    fresh = [Fake("a", 2000, walked=True), Fake("b", 2000, walked=True)]
    assert samples(mix_of(fresh, [1, 1]), resumed(3900, cursor, listed), 10) == [
        each for each, _, _ in found[3900:3910]
    ]
    assert max(fake.listed for fake in fresh) < 20


def test_a_small_source_repeated_often_keeps_the_state_small() -> None:
    mix = mix_of([Fake("a", 3000, walked=False), Fake("b", 1, walked=False)], [1, 1])
    found = asyncio.run(walk(mix, Position()))
    assert max(passes_before(number) for (name, number, _), _, _ in found if name == "s1") == 2999
    assert len(found[-1][2].samples) < 300
    assert samples(mix_of([Fake("a", 3000, walked=False), Fake("b", 1, walked=False)], [1, 1]),
                   resumed(5990, "", found[5995][2]), 5) == [each for each, _, _ in found[5990:5995]]  # fmt: skip


@pytest.mark.timeout(120)
def test_passes_of_shuffled_shards_resume_anywhere(tmp_path: Path) -> None:
    """Each pass has its own order of shards: a state saved in the next pass says nothing of the shards of this one."""
    for number, count in enumerate([1, 4, 2, 3]):
        files = [(f"{number}-{at}.jpg", b"x") for at in range(count)]
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(files))
    names = [f"{at}.jpg" for at in range(14)]
    for name in names:
        (tmp_path / name).touch()
    shards = {"url": str(tmp_path), "random_sampling": True, "shuffle_buffer": 2, "interleave": 2}
    sources = [
        {"name": "photos", "source_type": "file", "source_config": {"root_path": str(tmp_path)}},
        {"name": "shards", "source_type": "webdataset", "weight": 2, "source_config": shards},
    ]
    config = LoaderConfig.load({"source_type": "mix", "source_config": {"sources": sources, "stop": "all"}})

    async def run() -> None:
        async with HttpClient(config.http_config) as http:
            found = await walk(open_source(config, http), Position())
            whole = [each for each, _, _ in found]
            assert len(set(whole)) == len(whole) > 40
            for index, (_, cursor, _) in enumerate(found):
                listed = found[min(len(found) - 1, index + 6 * (index % 3))][2]
                mix = open_source(config, http)
                mix.tally.expect(listed, accepts=False)
                again = await walk(mix, resumed(index, cursor if index % 2 else "", listed), 12)
                assert [each for each, _, _ in again] == whole[index : index + 12], index

    asyncio.run(run())
