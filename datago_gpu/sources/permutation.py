"""Shuffles what is listed: the order of an epoch, and the share that each rank takes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig
from datago_gpu.config.sources import RankSplit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Shuffle", "permutation"]


class Shuffle:
    """The shuffled order of one rank.

    The ranks never overlap and take everything together. With `rank_split` "shuffled" that needs the same seed on all
    ranks; with "listed" each rank may have a seed of its own.
    """

    def __init__(self, config: LoaderConfig, rank_split: RankSplit) -> None:
        self._seed, self._split_first = config.seed, rank_split == "listed"
        self._rank, self._world_size = config.rank_and_world_size()

    def share(self, count: int, epoch: int) -> NDArray[np.int64]:
        """The numbers below `count` that this rank takes in an epoch, in the order in which it takes them."""
        if self._split_first:
            own = len(range(self._rank, count, self._world_size))
            return self._rank + self._world_size * permutation(own, self._seed, epoch)
        return permutation(count, self._seed, epoch)[self._rank :: self._world_size]


def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """An order of range(count) that depends on the arguments alone, not on the version of a library.

    Sorts by the outputs of the splitmix64 generator (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014), which are all different within one sequence.
    """
    import numpy as np  # only a shuffle needs it: it would delay the start of the feeder

    golden = np.uint64(0x9E3779B97F4A7C15)
    start = _mix(np.array([seed & (2**64 - 1)], np.uint64) * golden) ^ np.uint64(epoch)
    return np.argsort(_mix(_mix(start) + np.arange(1, count + 1, dtype=np.uint64) * golden), kind="stable")


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    import numpy as np

    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
