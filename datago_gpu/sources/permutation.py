"""Shuffles a complete listing: computes the order of an epoch, and the share of each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig
from datago_gpu.config.sources import RankSplit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Shuffle", "permutation"]


class Shuffle:
    """Computes the shuffled order of one rank.

    Together, the ranks take every item exactly once. With `rank_split` "shuffled", all ranks must have the same seed;
    with "listed", each rank may have its own seed.
    """

    def __init__(self, config: LoaderConfig, rank_split: RankSplit) -> None:
        self._seed, self._split_first = config.seed, rank_split == "listed"
        self._rank, self._world_size = config.rank_and_world_size()

    def share(self, count: int, epoch: int) -> NDArray[np.int64]:
        """Returns the numbers below `count` (int64) that this rank takes in an epoch, in its order."""
        if self._split_first:
            own = len(range(self._rank, count, self._world_size))
            return self._rank + self._world_size * permutation(own, self._seed, epoch)
        return permutation(count, self._seed, epoch)[self._rank :: self._world_size]


def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns a permutation of range(count), int64, that depends only on the arguments, not on the version of a
    library.

    Sorts by the outputs of the splitmix64 generator (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014), which are all different within one sequence.
    """
    import numpy as np  # only a shuffle needs numpy: importing it delays the start of the feeder

    golden = np.uint64(0x9E3779B97F4A7C15)
    start = _mix(np.array([seed & (2**64 - 1)], np.uint64) * golden) ^ np.uint64(epoch)
    return np.argsort(_mix(_mix(start) + np.arange(1, count + 1, dtype=np.uint64) * golden), kind="stable")


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    import numpy as np

    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
