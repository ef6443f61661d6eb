"""Part 1 of the model: the samples of one rank in one epoch, in their order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datago_gpu.config import DataroomSource, LoaderConfig, MiB, WebDatasetSource
from datago_gpu.server.partition import shard_of

__all__ = ["Item", "Listing", "Lost", "NoSamples", "Order", "Shard", "files", "numbered", "rooms", "shards"]


@dataclass(frozen=True)
class Item:
    """One sample of a data set: what its fate depends on, and nothing else."""

    id: str
    shape: tuple[int, int]
    """(height, width) of the picture."""
    size: int
    """Bytes of its file."""
    skipped: str = ""
    """Why the feeder leaves it out; "" where it does not."""
    is_undecodable: bool = False
    """The decoder leaves it out."""
    is_converted: bool = False
    """The feeder decodes it itself, and sends pixels that are cut already."""
    color: int | None = None
    """Red of its pixels; None where they have no single colour."""

    @property
    def is_good(self) -> bool:
        return not (self.skipped or self.is_undecodable)


@dataclass(frozen=True)
class Lost:
    """The rest of a shard, which cannot be read."""

    reason: str


class NoSamples(Exception):
    """The listing of a rank holds none, which is an error."""


Shard = list[Item | Lost]
"""A Lost can only be its last entry."""

Listing = list[Item | Lost]

Places = list[Item | Lost | None]
"""None stands for a sample of another rank."""

Order = Callable[[int], Listing]
"""The listing of one rank, of an epoch."""


# All draws are those of splitmix64 (Steele, Lea, Flood 2014): pinned, so that states outlive versions.

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    value &= _WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _WORD
    return value ^ value >> 31


class Draws:
    """Random numbers that depend on these words."""

    def __init__(self, *words: int) -> None:
        self._state = 0
        for word in words:
            self._state = _mix(self._state + _GOLDEN ^ word)

    def below(self, bound: int) -> int:
        self._state += _GOLDEN
        return _mix(self._state) * bound >> 64

    def shuffled(self, items: Listing) -> Listing:
        items = list(items)
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items


def permutation(count: int, seed: int, epoch: int) -> list[int]:
    """An order of range(count)."""
    start = _mix(_mix(seed * _GOLDEN) ^ epoch)
    return sorted(range(count), key=lambda number: _mix(start + (number + 1) * _GOLDEN))


def share(config: LoaderConfig, count: int, epoch: int) -> list[int]:
    """The numbers below `count` that the rank takes of a shuffle."""
    source = config.source_config
    assert not isinstance(source, DataroomSource)
    rank, world_size = config.rank_and_world_size()
    if source.rank_split == "listed":
        own = range(rank, count, world_size)
        return [own[number] for number in permutation(len(own), config.seed, epoch)]
    return permutation(count, config.seed, epoch)[rank::world_size]


def files(config: LoaderConfig, items: list[Item]) -> Order:
    """A folder: every world_size-th file, of the walk or of the shuffle of an epoch."""
    rank, world_size = config.rank_and_world_size()

    def order(epoch: int) -> Listing:
        if not config.source_config.random_sampling:
            return list(items[rank::world_size])
        return [items[number] for number in share(config, len(items), epoch)]

    return order


def rooms(config: LoaderConfig, items: list[Item]) -> Order:
    """A Dataroom: a partition of the server's, where the world size divides its 48 shards; else dealt out within one.

    A shuffle draws from the next `shuffle_buffer` samples.
    """
    source = config.source_config
    assert isinstance(source, DataroomSource)
    rank, world_size = config.rank_and_world_size()
    partitions = math.gcd(world_size, 48)
    offset, partition = divmod(rank, partitions)
    mine: Listing = [item for item in items if shard_of(item.id) % partitions == partition]
    mine = mine[offset :: world_size // partitions]

    def order(epoch: int) -> Listing:
        if not source.random_sampling:
            return mine
        draws, held, out = Draws(config.seed, epoch, rank), mine[: source.shuffle_buffer], []
        for item in mine[source.shuffle_buffer :]:
            drawn = draws.below(len(held))
            out.append(held[drawn])
            held[drawn] = item
        return out + draws.shuffled(held)

    return order


def shards(config: LoaderConfig, all_shards: list[Shard]) -> Order:
    """Shards: whole ones for each rank where there are enough; else the ranks take turns within each shard, beginning
    with a rank that only the number of the shard decides.

    `interleave` of them take turns. A shuffle draws from a buffer that is bounded in samples and in bytes.
    """
    source = config.source_config
    assert isinstance(source, WebDatasetSource)
    rank, world_size = config.rank_and_world_size()
    count = len(all_shards)
    split = count < world_size

    def order(epoch: int) -> Listing:
        if not source.random_sampling:
            numbers = list(range(count)) if split else list(range(rank, count, world_size))
        elif not split:
            numbers = share(config, count, epoch)
        else:
            numbers = list(range(count)) if source.rank_split == "listed" else permutation(count, config.seed, epoch)
        chosen: list[Places] = [list(all_shards[number]) for number in numbers]
        if not any(isinstance(entry, Item) for shard in chosen for entry in shard):
            raise NoSamples
        if split:
            chosen = [_dealt(shard, rank - at * world_size // count, world_size) for at, shard in enumerate(chosen)]
        listed = [entry for entry in _in_turns(chosen, source.interleave) if entry]
        return _mixed(listed, source, Draws(config.seed, epoch, rank)) if source.random_sampling else listed

    return order


def _in_turns(chosen: list[Places], interleave: int) -> Places:
    out: Places = []
    for first in range(0, len(chosen), interleave):
        left = deque(deque(shard) for shard in chosen[first : first + interleave])
        while left:
            shard = left.popleft()
            if shard:
                out.append(shard.popleft())
                left.append(shard)
    return out


def _dealt(shard: Places, rank: int, world_size: int) -> Places:
    """Every world_size-th sample, beginning with that rank; None in the place of the others."""
    return [
        entry if isinstance(entry, Lost) or (number - rank) % world_size == 0 else None
        for number, entry in enumerate(shard)
    ]


def _mixed(listed: Listing, source: WebDatasetSource, draws: Draws) -> Listing:
    def size(entry: Item | Lost) -> int:  # 1000 for what Python's objects take, and 2 of attributes: "{}"
        return 1000 + (entry.size + 2 if isinstance(entry, Item) and entry.skipped != "no-image" else 0)

    out: Listing = []
    held: Listing = []
    for entry in listed:
        if isinstance(entry, Lost):
            out.append(entry)
            continue
        held.append(entry)
        while len(held) > source.shuffle_buffer or (len(held) > 1 and sum(map(size, held)) > source.buffer_mb * MiB):
            drawn = draws.below(len(held))
            held[drawn], held[-1] = held[-1], held[drawn]
            out.append(held.pop())
    return out + draws.shuffled(held)


def numbered(listing: Listing) -> Iterator[tuple[int, Item | Lost]]:
    """Each sample with its number; a Lost with -1."""
    number = 0
    for entry in listing:
        yield (-1, entry) if isinstance(entry, Lost) else (number, entry)
        number += not isinstance(entry, Lost)
