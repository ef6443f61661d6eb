"""Takes samples of several open shards in turn, and counts them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable

from msgspec import Struct

from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.webdataset.done_shards import DoneShard, ShardShare, Turn
from datago_gpu.sources.webdataset.shard_reader import OpenShard
from datago_gpu.sources.webdataset.tar import BadShard

__all__ = ["Loss", "SampleEstimate", "TakenTurn", "reason_and_detail"]

_LOSSES = (BadShard, HttpFailure, OSError)
"""The errors that lose the rest of a shard."""


class Loss(Struct, frozen=True):
    """Says that the rest of shard `number` is lost. taken: how many samples it has given before."""

    number: int
    taken: int
    error: Exception


def reason_and_detail(error: Exception) -> tuple[str, str]:
    """Returns reason and detail of an error that loses the rest of a shard."""
    if isinstance(error, HttpFailure):
        return error.reason, error.detail
    if isinstance(error, FileNotFoundError):
        return "missing", ""
    if isinstance(error, OSError):
        return "unreadable", str(error.strerror or "")
    return "bad-shard", str(error)


class TakenTurn:
    """Yields the samples of a turn that a rank takes, and counts all of them."""

    def __init__(self, turn: Turn, opened: Iterable[OpenShard], share: ShardShare) -> None:
        """opened: the shards of the turn that are not done."""
        self._first, self._share = turn.first, share
        opens = iter(opened)
        self._shards = [next(opens) if count is None else DoneShard(count) for count in turn.counts]
        self._taken = [0] * len(self._shards)
        self._ended: set[int] = set()

    @property
    def has_begun(self) -> bool:
        """Returns whether there was a sample, of this rank or of another one."""
        return any(self._taken)

    def counts(self) -> Iterable[tuple[int, int | None]]:
        """Returns the number of each shard and of its samples, None if it was not read to its end."""
        for place, count in enumerate(self._taken):
            yield self._first + place, count if place in self._ended else None

    async def samples(self) -> AsyncGenerator[SampleRef | Skipped | Loss, None]:
        """Yields a sample of each shard in turn."""
        taken, left = self._taken, deque(enumerate(self._shards))
        while left:
            place, shard = left.popleft()
            number = self._first + place
            try:
                sample = await shard.take()
            except _LOSSES as error:
                yield Loss(number, taken[place], error)
                continue
            if sample is None:
                self._ended.add(place)
                continue
            left.append((place, shard))
            taken[place] += 1
            if self._share.takes(number, taken[place] - 1):
                yield sample


class SampleEstimate:
    """Estimates how many samples a shard contains, from the shards that were read to their end."""

    def __init__(self) -> None:
        self._samples = self._shards = 0

    def note(self, samples: int) -> None:
        """Records a shard that was read to its end."""
        self._samples, self._shards = self._samples + samples, self._shards + 1

    def left_of(self, taken: int) -> int:
        """Returns about how many samples a shard still contains after `taken` samples; 0 if unknown."""
        return max(0, round(self._samples / self._shards) - taken) if self._shards else 0
