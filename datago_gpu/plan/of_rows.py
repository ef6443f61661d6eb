"""Plans an epoch of rows that are known before the start, as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.plan.chain import plan_rest
from datago_gpu.plan.global_batches import GlobalBatches
from datago_gpu.plan.row_buckets import UNUSABLE, row_buckets
from datago_gpu.plan.taken import Taken

__all__ = ["EpochPlan", "bucket_numbers", "plan_rows"]

_NO_SIZES = "lockstep plans by the width and height of each picture, and "
_NO_SIZES_OF_ROWS = "the rows have none: give each Row its width and height"
_NO_SIZES_OF_TABLE = (
    "the table has none. If it has columns of sizes, name them (source_config.width and height). If its images lie "
    "elsewhere, make an index once: datago-gpu index CONFIG --out index.arrow. If it holds the bytes of its images, "
    "add columns of sizes to it (docs/training/lockstep.md)"
)


class EpochPlan(NamedTuple):
    """The plan of the rest of an epoch."""

    batches: GlobalBatches
    unplanned: NDArray[np.int64]
    """The numbers of the rows without a size, and of those whose pictures are too small."""


def bucket_numbers(config: LoaderConfig, sizes: NDArray[np.int32] | None) -> NDArray[np.int16]:
    """Returns the number of each row's bucket, as `row_buckets`. Raises ConfigError if no row has a size.

    sizes: (N, 2), height and width of each row.
    """
    found = None if sizes is None else row_buckets(sizes, config.bucket_choice())
    if found is None or (len(found) and (found == UNUSABLE).all()):
        raise ConfigError(_NO_SIZES + (_NO_SIZES_OF_TABLE if config.source_type == "table" else _NO_SIZES_OF_ROWS))
    return found


def plan_rows(
    config: LoaderConfig, bucket_of: NDArray[np.int16], order: NDArray[np.int64], taken: Sequence[Taken]
) -> EpochPlan:
    """Plans the rest of an epoch.

    bucket_of: as `bucket_numbers` returns it. order: the rows' numbers in the order of the epoch. taken: as for
    `plan_rest`. Raises MoreTaken.
    """
    table = np.array(config.bucket_choice().sizes, np.int32)
    batches = plan_rest(order, bucket_of, table, taken, drop_last=config.drop_last)
    return EpochPlan(batches, np.sort(order[bucket_of[order] < 0]))
