"""Plans the rest of an epoch of which batches were taken before, perhaps on another number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datago_gpu.plan.global_batches import GlobalBatches, group
from datago_gpu.plan.taken import MoreTaken, Taken

__all__ = ["plan_rest"]


def plan_rest(
    order: NDArray[np.int64],
    bucket_of: NDArray[np.integer],
    sizes: NDArray[np.int32],
    taken: Sequence[Taken],
    *,
    drop_last: bool = False,
) -> GlobalBatches:
    """Plans the batches with the G of the last entry of `taken`; first come the batches that its steps count as taken.

    The rows of the batches that were taken before, with other G, are left out. All other arguments are as for `group`.
    Raises MoreTaken if more batches were taken than there are.
    """
    *earlier, (together, steps) = taken
    done = np.zeros(len(bucket_of) if earlier else 0, np.bool_)
    for each, count in earlier:
        batches = group(order, bucket_of, sizes, each)
        _check(count, len(batches))
        done[batches.taken(count)] = True
        order = order[~done[order]]
    rest = group(order, bucket_of, sizes, together)
    _check(steps, len(rest))
    return rest.drop_last(steps) if drop_last else rest


def _check(taken: int, there: int) -> None:
    if taken > there:
        raise MoreTaken
