"""What the planner of a run in lockstep knows of the rows of a mix, without a feeder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import LoaderConfig, MixSource
from datago_gpu.loader.on_thread import call_on_thread
from datago_gpu.loader.row_where import passing_rows
from datago_gpu.plan.mix_buckets import mixed_bucket_numbers
from datago_gpu.sources import open_source
from datago_gpu.sources.mix.mix_rows import KeptRows, kept_order, mixture_of
from datago_gpu.sources.mix.turns import pass_number
from datago_gpu.sources.order import epoch_order
from datago_gpu.sources.rows import RowsSource

if TYPE_CHECKING:
    from datago_gpu.loader.given_rows import GivenRows

__all__ = ["known_mix"]

Order = Callable[[int], NDArray[np.int64]]
"""The number of an epoch, or of a pass -> the numbers of the rows in its order."""


class _KnownSource(NamedTuple):
    rows: int
    """Number of rows."""
    sizes: NDArray[np.int32] | None
    order: Order


def known_mix(config: LoaderConfig, rows: GivenRows | None) -> tuple[NDArray[np.int16], Order]:
    """Returns the number of the bucket of each occurrence (see `Mixture`), and the order of an epoch.

    config: with lockstep. rows: of the program's own. Raises ConfigError and SourceError.
    """
    mix = config.source_config
    assert isinstance(mix, MixSource)
    listed = config.with_source(rank=0, world_size=1)
    sources = {
        name: _own_rows(each, rows) if rows and each.source_type == "rows" else call_on_thread(_open, each)
        for name, each in listed.by_source().items()
    }
    mixture = mixture_of(mix, {name: each.rows for name, each in sources.items()})
    known = list(sources.values())

    def order(epoch: int) -> NDArray[np.int64]:
        return mixture.order(lambda number, before: known[number].order(pass_number(epoch, before)))

    sizes = {name: each.sizes for name, each in sources.items()}
    return mixed_bucket_numbers(listed, mixture, sizes), order


def _own_rows(config: LoaderConfig, rows: GivenRows) -> _KnownSource:
    sizes, passing = rows.sizes.get(), passing_rows(rows, config.source_config.where)
    shuffled, count = getattr(config.source_config, "random_sampling", False), len(sizes)

    def order(number: int) -> NDArray[np.int64]:
        return kept_order(epoch_order(count, config.seed, number, shuffled=shuffled), passing)

    kept = sizes if passing is None else sizes[passing]
    return _KnownSource(len(kept), kept, order)


async def _open(config: LoaderConfig) -> _KnownSource:
    from datago_gpu.feeder.runtime import http_client_type

    async with http_client_type()(config.http_config) as http:
        source = open_source(config, http)
        assert isinstance(source, RowsSource)
        rows = KeptRows(await source.rows())

    def order(number: int) -> NDArray[np.int64]:
        return rows.places_of(call_on_thread(source.order, number))

    return _KnownSource(len(rows), rows.sizes(), order)
