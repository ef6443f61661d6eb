"""Plans the rest of an epoch of which batches were taken before, perhaps on another number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datago_gpu.plan.global_batches import GlobalBatches, group
from datago_gpu.plan.taken import MoreTaken, Taken

__all__ = ["places_seen", "plan_rest"]


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


def places_seen(
    order: NDArray[np.int64], bucket_of: NDArray[np.integer], sizes: NDArray[np.int32], taken: Sequence[Taken]
) -> int:
    """Returns how long the beginning of `order` is on which the batches taken depend: whatever follows may change.

    All arguments are as for `plan_rest`. Raises MoreTaken.
    """
    place_of = np.zeros(len(bucket_of), np.int64)
    place_of[order] = np.arange(1, len(order) + 1)
    done, seen, rest = np.zeros(len(bucket_of), np.bool_), 0, order
    for each, count in taken:
        batches = group(rest, bucket_of, sizes, each)
        _check(count, len(batches))
        rows = batches.taken(count)
        # The last batch of a bucket, if it is not complete, depends on all of the order.
        seen = len(order) if count > batches.complete else max(seen, int(place_of[rows].max(initial=0)))
        done[rows] = True
        rest = rest[~done[rest]]
    return seen


def _check(taken: int, there: int) -> None:
    if taken > there:
        raise MoreTaken
