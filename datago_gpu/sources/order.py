"""Numbers samples, and shares them among the ranks. Together, the ranks take every sample exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, structs

from datago_gpu.config import LoaderConfig
from datago_gpu.config.settings import RankSplit
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.shuffle import permutation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RankShare", "ShuffledShare", "epoch_order", "renumber"]

T = TypeVar("T")


class RankShare(Struct, frozen=True):
    """One rank's share of a sequence: the items numbered `rank` + n * `world_size`."""

    rank: int
    world_size: int

    @classmethod
    def of(cls, config: LoaderConfig) -> RankShare:
        """Returns the share of the rank that the settings name, or that was found."""
        return cls(*config.rank_and_world_size())

    def index_of(self, position: int) -> int | None:
        """Returns the number in this share of the item at a position of the sequence; None if another rank has it."""
        index, elsewhere = divmod(position - self.rank, self.world_size)
        return None if elsewhere else index

    def select(self, items: Sequence[T]) -> Sequence[T]:
        """Returns the items of this share, in their order."""
        return items[self.rank :: self.world_size]


class ShuffledShare:
    """Computes the share of one rank, in the shuffled order of an epoch.

    With `rank_split` "shuffled", all ranks must have the same seed; with "listed", each rank may have its own seed.
    """

    def __init__(self, config: LoaderConfig, rank_split: RankSplit) -> None:
        self._seed, self._split_first = config.seed, rank_split == "listed"
        self._share = RankShare.of(config)

    def numbers(self, count: int, epoch: int) -> NDArray[np.int64]:
        """Returns the numbers below `count` (int64) that this rank takes in an epoch, in its order."""
        share = self._share
        if self._split_first:
            own = len(share.select(range(count)))
            return share.rank + share.world_size * permutation(own, self._seed, epoch)
        return permutation(count, self._seed, epoch)[share.rank :: share.world_size]


def epoch_order(count: int, seed: int, epoch: int, *, shuffled: bool) -> NDArray[np.int64]:
    """Returns the numbers below `count` (int64) in the order of an epoch, of all ranks together."""
    import numpy as np  # only a plan needs numpy here: importing it delays the start of the feeder

    return permutation(count, seed, epoch) if shuffled else np.arange(count)


def renumber(sample: SampleRef | Skipped, index: int, cursor: str = "") -> SampleRef | Skipped:
    """Returns the sample as number `index` of another order, with the cursor of that order."""
    if isinstance(sample, SampleRef):
        sample.index, sample.cursor = index, cursor
        return sample
    return structs.replace(sample, index=index)
