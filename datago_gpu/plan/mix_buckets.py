"""Finds the buckets of the rows of a mix, whose sources may have settings of their own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.plan.of_rows import bucket_numbers
from datago_gpu.sources.mix.mix_listing import named
from datago_gpu.sources.mix.mixture import Mixture

__all__ = ["mixed_bucket_numbers"]


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
