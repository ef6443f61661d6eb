"""What the planner of a run in lockstep knows of the rows of a mix, without a feeder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import LoaderConfig, MixSource
from datago_gpu.loader.on_thread import call_on_thread
from datago_gpu.loader.row_where import passing_rows
from datago_gpu.plan.mix_buckets import mixed_bucket_numbers, settled_stretches
from datago_gpu.plan.taken import Taken
from datago_gpu.sources import open_source
from datago_gpu.sources.mix.mix_listing import Stretch, parse_stretches
from datago_gpu.sources.mix.mix_rows import KeptRows, kept_order, mixture_of
from datago_gpu.sources.mix.mixture import Mixture
from datago_gpu.sources.mix.turns import pass_number
from datago_gpu.sources.order import epoch_order
from datago_gpu.sources.rows import RowsSource

if TYPE_CHECKING:
    from datago_gpu.loader.given_rows import GivenRows

__all__ = ["KnownMix"]

Orders = Callable[[Sequence[int]], list[NDArray[np.int64]]]
"""The numbers of passes -> for each, the numbers of the rows in its order."""


class _KnownSource(NamedTuple):
    rows: int
    """Number of rows."""
    sizes: NDArray[np.int32] | None
    orders: Orders


class KnownMix:
    """Plans a mix without loading anything. config: with lockstep. rows: of the program's own.

    Raises ConfigError and SourceError.
    """

    def __init__(self, config: LoaderConfig, rows: GivenRows | None) -> None:
        assert isinstance(config.source_config, MixSource)
        self._config, self._mix = config.with_source(rank=0, world_size=1), config.source_config
        self._sources = {
            name: _own_rows(each, rows) if rows and each.source_type == "rows" else call_on_thread(_open, each)
            for name, each in self._config.by_source().items()
        }
        self._mixture = self._mixture_of(())
        self.bucket_of = self._buckets(self._mixture)
        """The number of the bucket of each occurrence of a row: see `Mixture`."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Returns the numbers of the occurrences in the order of an epoch."""
        return self._order(self._mixture, epoch)

    def resumed(self, epoch: int, weights: str, taken: Sequence[Taken]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Returns buckets and order of an epoch in which the weights change. weights: of the state, as text."""
        stretches = parse_stretches(weights, len(self._mix.sources))
        mixture = self._mixture_of(stretches)
        buckets, order = self._buckets(mixture), self._order(mixture, epoch)
        settled = settled_stretches(self._config, stretches, order, buckets, taken)
        mixture = self._mixture_of(settled)
        return self._buckets(mixture), self._order(mixture, epoch)

    def _mixture_of(self, stretches: Sequence[Stretch]) -> Mixture:
        return mixture_of(self._mix, {name: each.rows for name, each in self._sources.items()}, stretches)

    def _buckets(self, mixture: Mixture) -> NDArray[np.int16]:
        return mixed_bucket_numbers(self._config, mixture, {name: each.sizes for name, each in self._sources.items()})

    def _order(self, mixture: Mixture, epoch: int) -> NDArray[np.int64]:
        orders = [
            source.orders([pass_number(epoch, before) for before in range(passes)])
            for source, passes in zip(self._sources.values(), mixture.passes, strict=True)
        ]
        return mixture.order(lambda number, before: orders[number][before])


def _own_rows(config: LoaderConfig, rows: GivenRows) -> _KnownSource:
    sizes, passing = rows.sizes.get(), passing_rows(rows, config.source_config.where)
    shuffled, count = getattr(config.source_config, "random_sampling", False), len(sizes)

    def orders(numbers: Sequence[int]) -> list[NDArray[np.int64]]:
        return [kept_order(epoch_order(count, config.seed, number, shuffled=shuffled), passing) for number in numbers]

    kept = sizes if passing is None else sizes[passing]
    return _KnownSource(len(kept), kept, orders)


async def _open(config: LoaderConfig) -> _KnownSource:
    from datago_gpu.feeder.runtime import http_client

    async with http_client(config) as http:
        source = open_source(config, http)
        assert isinstance(source, RowsSource)
        rows = KeptRows(await source.rows())

    async def find(numbers: Sequence[int]) -> list[NDArray[np.int64]]:
        return [rows.places_of(await source.order(number)) for number in numbers]

    return _KnownSource(len(rows), rows.sizes(), lambda numbers: call_on_thread(find, numbers))
