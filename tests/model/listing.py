"""Part 1 of the model: the samples of one rank in one epoch, in their order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

from datago_gpu.config import DataroomSource, LoaderConfig, WebDatasetSource
from datago_gpu.server.partition import shard_of
from datago_gpu.units import MiB
from tests.model.asked import as_asked_of_a_room, as_asked_of_a_shard, as_asked_of_files
from tests.model.items import Item, Lost, Shard

__all__ = ["Listing", "NoSamples", "Order", "files", "numbered", "rooms", "shards"]


class NoSamples(Exception):
    """The shards of a rank hold no sample, which is an error. lost: what is skipped before it is raised."""

    def __init__(self, lost: Listing) -> None:
        super().__init__("no samples")
        self.lost = lost


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
    """A folder, or a table of its paths: every world_size-th file, of the walk or of the shuffle of an epoch.

    It has nothing but pictures; and, where they are asked for, labels and captions.
    """
    rank, world_size = config.rank_and_world_size()
    items = [as_asked_of_files(config, item) for item in items]
    if getattr(config.source_config, "labels", ""):
        items = [item for item in items if item.label is not None]

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
    mine: Listing = [item for item in as_asked_of_a_room(source, items) if shard_of(item.id) % partitions == partition]
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
        chosen: list[Places] = [as_asked_of_a_shard(source, all_shards[number]) for number in numbers]
        if not any(isinstance(entry, Item) for shard in chosen for entry in shard):
            raise NoSamples([entry for entry in _in_turns(chosen, source.interleave) if entry])
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
    def size(entry: Item | Lost) -> int:  # 1000 for what Python's objects take
        if isinstance(entry, Lost) or entry.is_lacking:
            return 1000
        return 1000 + entry.size + sum(piece.size for piece in entry.pieces.values()) + len(entry.attributes)

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
