"""Finds the buckets of the rows of a mix, whose sources may have settings of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import LoaderConfig, MixSource
from datago_gpu.errors import ConfigError
from datago_gpu.plan.chain import places_seen
from datago_gpu.plan.of_rows import bucket_numbers
from datago_gpu.plan.taken import Taken
from datago_gpu.sources.mix.mix_listing import Stretch, named
from datago_gpu.sources.mix.mix_places import changed_from
from datago_gpu.sources.mix.mixture import Mixture
from datago_gpu.sources.mix.turns import whole_weights

__all__ = ["mixed_bucket_numbers", "settled_stretches"]


def settled_stretches(
    config: LoaderConfig,
    known: Sequence[Stretch],
    order: NDArray[np.int64],
    bucket_of: NDArray[np.int16],
    taken: Sequence[Taken],
) -> list[Stretch]:
    """Returns the weights of the epoch in which a run resumes. Other weights than those of the state hold from behind
    the rows on which the batches taken depend.

    known: of the state. order, bucket_of: with these weights. taken: as for `plan_rest`. Raises MoreTaken.
    """
    mix = config.source_config
    assert isinstance(mix, MixSource)
    if mix.repeats or whole_weights(known[-1].weights) == whole_weights(mix.weights):
        return list(known)
    seen = places_seen(order, bucket_of, np.array(config.bucket_choice().sizes, np.int32), taken)
    return list(known) if seen == len(order) else changed_from(known, mix.weights, seen)


def mixed_bucket_numbers(
    config: LoaderConfig, mixture: Mixture, sizes: Mapping[str, NDArray[np.int32] | None]
) -> NDArray[np.int16]:
    """Returns the number of the bucket of each occurrence. Raises ConfigError if a source knows no sizes.

    sizes: name of a source -> height and width of each row, (N, 2), or None.
    """
    found = []
    for number, (name, each) in enumerate(config.by_source().items()):
        try:
            used = mixture.passes[number]
            found.append(bucket_numbers(each, sizes[name]) if used else np.empty(0, np.int16))
        except ConfigError as problem:
            raise named(problem, name) from problem
    return mixture.repeat(found)
