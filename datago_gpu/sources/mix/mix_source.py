"""`Mix`, the `Source` of source_type "mix": the samples of several sources in one order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack

from msgspec import structs

from datago_gpu.config import LoaderConfig, MixSource
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.mix.mix_classes import check_mixed_classes
from datago_gpu.sources.mix.mix_listing import MixListing, MixTally, marked, named, no_samples
from datago_gpu.sources.mix.mix_places import (
    Place,
    add_pass,
    first_passes,
    parse_places,
    places_at,
    stretches_from,
)
from datago_gpu.sources.mix.passes import Passes
from datago_gpu.sources.mix.sample_counts import count_samples
from datago_gpu.sources.mix.turns import Turns
from datago_gpu.sources.order import renumber
from datago_gpu.sources.reference import FILTERED_IN_MIX, PartlyDone, Position, Refs, SampleRef, Skipped, Source

__all__ = ["Mix"]


class Mix:
    """Mixes sources: the next sample is of the source that is furthest behind its share (see `turns`).

    A sample that its source skips takes its turn, too. Each rank mixes what its own shares of the sources have.
    A `cursor` has the place of every source: see `Place`. A source that has no more begins its next pass, as if it were
    the next epoch of a source without a mix.

    sources: name -> source, each with rank and world size of the mix.
    """

    def __init__(self, config: LoaderConfig, sources: Mapping[str, Source]) -> None:
        assert isinstance(config.source_config, MixSource)
        self._mix, self._sources = config.source_config, sources
        self._ranks = config.rank_and_world_size()
        self.tally = MixTally(sources)
        self._counts: list[int] | None = None
        self._are_checked = False
        """Whether the classes of the sources were found to be the same."""

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`: of all sources together."""
        return dict(sum((Counter(source.passed_over) for source in self._sources.values()), Counter()))

    @property
    def epoch_samples(self) -> int | None:
        """See `Source.epoch_samples`: known with `repeat`. By weights, it depends on which source ends first."""
        if self._counts is None:
            return None
        return sum(count * int(passes) for count, passes in zip(self._counts, self._mix.weights, strict=True))

    async def refs(self, start: Position) -> Refs:
        """See `Source.refs`. Raises SourceError and ConfigError, which name the source."""
        async with AsyncExitStack() as stack:
            epoch = await self._begin(start)
            for passes in epoch.passes:
                stack.push_async_callback(passes.close)
            for passes in epoch.drawn():
                await passes.compare()
            index = start.index
            while True:
                epoch.reach(index)
                number = epoch.turns.next()
                if number < 0:
                    return
                passes = epoch.passes[number]
                sample = await passes.next()
                if sample is None:
                    if self._ends(epoch, number):
                        return
                elif isinstance(sample, Skipped) and (sample.index < 0 or sample.is_filtered):
                    yield _without_number(sample, passes)
                else:
                    yield epoch.give(number, sample, index)
                    index += 1

    async def _begin(self, start: Position) -> _Epoch:
        """Works out the place of each source."""
        if not self._are_checked:
            await check_mixed_classes(self._mix, self._sources)
            self._are_checked = True
        names, repeats = list(self._sources), self._mix.repeats
        state = MixListing.parse(start.samples if isinstance(start, PartlyDone) else "", len(names))
        stretches = stretches_from(state.stretches, await self._weights(), start)
        lengths = [each.lengths for each in state.sources]
        passes = [int(each) for each in self._mix.weights] if repeats else None
        places = parse_places(start.cursor, len(names))
        if places is None:
            places = places_at(stretches, start.index, lengths, passes)
        self.tally.stretches = stretches
        self.tally.lengths = [first_passes(each, place.before) for each, place in zip(lengths, places, strict=True)]
        found = [
            Passes(
                part.name,
                self._sources[part.name],
                self.tally,
                start.epoch,
                place,
                listed.counts_of_pass(place.before),
                filters=bool(part.source_config.where.strip()),
            )
            for part, place, listed in zip(self._mix.sources, places, state.sources, strict=True)
        ]
        return _Epoch(self.tally, found, places, start.index, passes)

    async def _weights(self) -> list[float]:
        """Returns the weights; with `repeat`, the number of samples in all passes of each source."""
        if not self._mix.repeats:
            return self._mix.weights
        if self._counts is None:
            counts = []
            for name, source in self._sources.items():
                try:
                    counts.append(await count_samples(source))
                except (SourceError, ConfigError) as problem:
                    raise named(problem, name) from problem
                if not counts[-1]:
                    raise self._empty(name)
            self._counts = counts
        return [count * int(passes) for count, passes in zip(self._counts, self._mix.weights, strict=True)]

    def _ends(self, epoch: _Epoch, number: int) -> bool:
        """Ends a pass through a source. Returns whether the epoch ends with it; if not, the next pass has begun."""
        passes = epoch.passes[number]
        if not passes.place.given:
            raise self._empty(passes.name, passes.place.index)
        self.tally.lengths[number] = add_pass(self.tally.lengths[number], passes.place.given)
        passes.begin_next()
        if epoch.most is not None:
            epoch.turns.finished[number] = passes.place.before >= epoch.most[number]
            return all(epoch.turns.finished)
        if self._mix.stop == "first":
            return True
        drawn = (each for each, weight in zip(epoch.passes, epoch.turns.weights, strict=True) if weight)
        return all(each.place.before for each in drawn)

    def _empty(self, name: str, filtered: int = 0) -> SourceError:
        rank, world_size = self._ranks
        if world_size == 1:
            return SourceError(no_samples(name, filtered=filtered))
        said = no_samples(name, f" for rank {rank} of {world_size}", filtered=filtered)
        return SourceError(f"{said}. Each rank needs a sample of each source, and of shards a shard")


class _Epoch:
    """What a walk through one epoch needs. most: passes after which each source gives no more; None: it always does."""

    def __init__(
        self, tally: MixTally, passes: list[Passes], places: list[Place], index: int, most: list[int] | None
    ) -> None:
        self.passes, self.most = passes, most
        self._stretches = list(tally.stretches)
        while len(self._stretches) > 1 and self._stretches[1].start <= index:
            del self._stretches[0]
        self.turns = Turns(self._stretches[0].weights, [place.taken for place in places])
        self._mark_finished()
        if self._stretches[0].start == index:  # the state may have been saved with the weights before
            self._begin_stretch()

    def reach(self, index: int) -> None:
        """Changes the weights, if others hold from this sample on."""
        if len(self._stretches) > 1 and self._stretches[1].start == index:
            del self._stretches[0]
            self._begin_stretch()

    def _begin_stretch(self) -> None:
        self.turns = Turns(self._stretches[0].weights)
        self._mark_finished()
        for passes in self.passes:
            passes.place.taken = 0
            passes.has_moved = True

    def drawn(self) -> list[Passes]:
        """Returns the sources that give samples."""
        used = zip(*(stretch.weights for stretch in self._stretches), strict=True)
        return [passes for passes, weights in zip(self.passes, used, strict=True) if any(weights)]

    def give(self, number: int, sample: SampleRef | Skipped, index: int) -> SampleRef | Skipped:
        """Returns the sample of a source as number `index` of the mix, and counts the sample."""
        passes, cursor = self.passes[number], ""
        if isinstance(sample, SampleRef):
            passes.note_cursor(sample.cursor)
            cursor = f"[{','.join([each.text() for each in self.passes])}]"
        self.turns.take(number)
        passes.advance()
        return renumber(marked(sample, passes.name, passes.number), index, cursor)

    def _mark_finished(self) -> None:
        if self.most is not None:
            self.turns.finished = [
                passes.place.before >= most for passes, most in zip(self.passes, self.most, strict=True)
            ]


def _without_number(sample: Skipped, passes: Passes) -> Skipped:
    """Returns the rest of a shard, or samples that `where` leaves out, which have no number in the mix."""
    if sample.index < 0:
        return structs.replace(sample, mix=passes.name)
    where = f"{passes.name} {passes.number}:{sample.index}"  # distinguishes it from others
    passes.pass_over(sample)
    return structs.replace(sample, index=FILTERED_IN_MIX, where=where, mix=passes.name)
