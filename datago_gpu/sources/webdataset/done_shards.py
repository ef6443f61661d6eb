"""Works out which shards a resumed run can leave unopened, because all of their samples are done.

A state holds the number of samples of each shard that was read to its end. From these numbers follows which sample of
which shard has which number in the epoch: the shards take turns, and a shuffle buffer draws by its seed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from itertools import groupby
from sys import maxsize

from msgspec import Struct

from datago_gpu.sources.done_ranges import DoneRanges
from datago_gpu.sources.reference import Skipped
from datago_gpu.sources.shuffle import SplitMix64, shuffle_stream
from datago_gpu.sources.webdataset.addresses import MOST_SHARDS

__all__ = ["DONE", "DoneShard", "ShardCounts", "ShardShare", "Turn", "plan_in_order", "plan_shuffled"]

DONE = Skipped(0, "", "", "done")
"""Stands for a sample of a shard that is not opened."""


class DoneShard:
    """Takes the place of an open shard. Yields `DONE` as often as the shard has samples."""

    def __init__(self, count: int) -> None:
        self._left = count

    async def take(self) -> Skipped | None:
        """Returns `DONE`; None at the end."""
        self._left -= 1
        return DONE if self._left >= 0 else None


class ShardCounts:
    """Holds the number of samples of each shard, in the order of an epoch, as far as these are known.

    As text, for states: numbers separated by commas, "N*T" for T equal ones, "-" for a shard that was not read to its
    end.
    """

    def __init__(self, text: str = "") -> None:
        self._counts: list[int | None] = []
        for part in filter(None, text.split(",")):
            count, _, times = part.partition("*")
            known = int(count) if count.isdecimal() else None
            self._counts += [known] * (min(int(times), MOST_SHARDS) if times.isdecimal() else 1)
        runs = [(count, len(list(equal))) for count, equal in groupby(self._counts)]
        self._before = "".join(f"{_run_text(*run)}," for run in runs[:-1])
        """The text of all runs of equal counts but the last one. It grows with each run, since joining takes longer."""
        self._times = runs[-1][1] if runs else 0
        """The length of the last run."""
        self._is_spoiled = False

    @property
    def text(self) -> str:
        """Returns the counts as text."""
        return self._before + _run_text(self._counts[-1], self._times) if self._counts else ""

    def note(self, number: int, count: int | None) -> None:
        """Records the samples of shard `number`; None if it was not read to its end. Keeps what is recorded already."""
        if number < len(self._counts) or self._is_spoiled:
            return
        while number > len(self._counts):  # resumed from a state without counts
            self._append(None)
        self._append(count)

    def spoil(self) -> None:
        """Forgets all counts, for good: the order of this epoch depends on more than counts."""
        self._counts, self._before, self._times, self._is_spoiled = [], "", 0, True

    def of_group(self, first: int, end: int) -> list[int] | None:
        """Returns the counts of the shards from `first` to before `end`; None if one of them is unknown."""
        found = [count for count in self._counts[first:end] if count is not None]
        return found if len(found) == end - first else None

    def _append(self, count: int | None) -> None:
        if self._counts and self._counts[-1] == count:
            self._times += 1
        else:
            self._before, self._times = f"{self.text}," if self._counts else "", 1
        self._counts.append(count)


class ShardShare(Struct, frozen=True):
    """Says which samples of `shards` shards a rank takes, where `ranks` ranks share the samples of each shard.

    The result depends on no other shard, since a shard that one rank cannot read has no known length. The ranks take
    turns within a shard. The first ranks of the shards are evenly spread, so that no rank gets the first sample of each
    shard.
    """

    rank: int
    ranks: int
    shards: int

    def takes(self, shard: int, sample: int) -> bool:
        """Returns whether the rank takes sample number `sample` of shard number `shard`."""
        return (shard * self.ranks // self.shards + sample) % self.ranks == self.rank

    def count_of_turn(self, first: int, counts: list[int]) -> int:
        """Returns how many samples the rank takes of the shards from `first` on, which have so many."""
        begins = ((self.rank - (first + place) * self.ranks // self.shards) for place in range(len(counts)))
        ranges = (range(begin % self.ranks, count, self.ranks) for begin, count in zip(begins, counts, strict=True))
        return sum(map(len, ranges))

    def in_turn(self, first: int, counts: list[int]) -> Iterable[int]:
        """Returns the shard of each sample that the rank takes, where the shards from `first` on take turns."""
        if self.ranks == len(counts) == 1:
            return [first] * counts[0]
        return (
            first + place
            for sample in range(max(counts))
            for place, count in enumerate(counts)
            if sample < count and self.takes(first + place, sample)
        )


class Turn(Struct, frozen=True):
    """Some shards that take turns."""

    first: int
    """The number of the first shard."""
    counts: list[int | None]
    """For each shard None, or the number of its samples if it is done and need not be opened."""
    index: int | None = None
    """The number of the first sample; None if that follows from the turns before."""


def plan_in_order(
    counts: ShardCounts, share: ShardShare, interleave: int, first: int, index: int, done: DoneRanges
) -> Iterator[Turn]:
    """Yields the turns that have samples to deliver, from shard `first` on, which begins with sample `index`."""
    for number, end in _groups(first, share.shards, interleave):
        if done.cover(index):
            return
        known = counts.of_group(number, end)
        if known is None:
            yield Turn(number, [None] * (end - number), index)
            yield from (Turn(begin, [None] * (stop - begin)) for begin, stop in _groups(end, share.shards, interleave))
            return
        size = share.count_of_turn(number, known)
        if not done.cover(index, index + size - 1):
            order = enumerate(share.in_turn(number, known), index)
            needed = {shard for sample, shard in order if not done.cover(sample, sample)}
            yield Turn(number, _leave_out(number, known, needed), index)
        index += size


async def plan_shuffled(
    counts: ShardCounts, share: ShardShare, interleave: int, capacity: int, generator: SplitMix64, done: DoneRanges
) -> list[Turn]:
    """Returns the turns of an epoch whose samples pass through a shuffle buffer of `capacity`, up to the last turn that
    has samples to deliver."""
    groups = _groups(0, share.shards, interleave)
    known: dict[int, list[int]] = {}
    for first, end in groups:
        group = counts.of_group(first, end)
        if group is None:
            break
        known[first] = group
    walked = sum(share.count_of_turn(first, group) for first, group in known.items())
    is_whole = len(known) == len(groups)
    drawn = walked if is_whole else max(0, walked - capacity)
    ends_here = done.cover(drawn)
    needed: set[int] = set()
    async with aclosing(_shuffle(known, share, capacity, generator)) as shuffled:
        sample = 0
        async for shard in shuffled:
            if not (done.cover(sample, sample) if sample < drawn else ends_here):
                needed.add(shard)
            sample += 1
    turns = [Turn(first, _leave_out(first, group, needed)) for first, group in known.items()]
    rest = [] if ends_here else groups[len(known) :]
    return turns + [Turn(first, [None] * (end - first)) for first, end in rest]


async def _shuffle(
    known: dict[int, list[int]], share: ShardShare, capacity: int, generator: SplitMix64
) -> AsyncGenerator[int, None]:
    """Yields the shard of each sample, as the shuffle buffer draws the samples."""

    async def walk() -> AsyncGenerator[int, None]:
        for first, group in known.items():
            for shard in share.in_turn(first, group):
                yield shard

    mixed = shuffle_stream(walk(), capacity, generator, most_bytes=maxsize, size_of=lambda _: 0, draws_newest=True)
    async with aclosing(mixed) as shards:
        async for shard in shards:
            yield shard


def _run_text(count: int | None, times: int) -> str:
    """Returns the text of a run of equal counts."""
    known = "-" if count is None else str(count)
    return f"{known}*{times}" if times > 1 else known


def _groups(first: int, end: int, size: int) -> list[tuple[int, int]]:
    """Cuts the range from `first` to before `end` into ranges of `size`."""
    return [(begin, min(begin + size, end)) for begin in range(first, end, size)]


def _leave_out(first: int, counts: list[int], needed: set[int]) -> list[int | None]:
    """Returns the counts with None for the shards that are needed."""
    return [None if first + place in needed else count for place, count in enumerate(counts)]
