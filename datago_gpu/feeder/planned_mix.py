"""Plans the rows of a mix, whose weights may have changed when the run resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig
from datago_gpu.eventloop import call_in_thread
from datago_gpu.feeder.planned import PlannedRows
from datago_gpu.plan.taken import Taken
from datago_gpu.sources.mix.mix_listing import Stretch, parse_stretches
from datago_gpu.sources.mix.mix_rows import MixedRows, MixedRowsSource
from datago_gpu.sources.reference import ListingDigest, Skipped
from datago_gpu.sources.rows import Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PlannedMix"]


class PlannedMix(PlannedRows):
    """Plans a mix, as `PlannedRows` plans a source alone."""

    def __init__(self, config: LoaderConfig, source: MixedRowsSource) -> None:
        super().__init__(config, source)
        self._mixed = source
        self._resumed: tuple[int, list[Stretch]] | None = None

    def resume(self, epoch: int, listed: ListingDigest | None) -> None:
        """Reads the weights with which the batches of an epoch were planned that were taken before."""
        stretches = parse_stretches(listed.samples, len(self._config.source_types)) if listed else []
        self._resumed = (epoch, stretches) if stretches else None

    async def _rows_of(self, epoch: int, taken: Sequence[Taken]) -> MixedRows:
        if self._resumed and self._resumed[0] == epoch:
            from datago_gpu.plan.mix_buckets import settled_stretches

            await self._mixed.change(epoch, self._resumed[1])
            bucket_of = await call_in_thread(None, self._buckets, await self._mixed.rows_of(epoch))
            order = await self._mixed.order(epoch)
            stretches = await call_in_thread(
                None, settled_stretches, self._config, self._resumed[1], order, bucket_of, taken
            )
            await self._mixed.change(epoch, stretches)
        return await self._mixed.rows_of(epoch)

    def _bucket_numbers(self, rows: Rows) -> NDArray[np.int16]:
        from datago_gpu.plan.mix_buckets import mixed_bucket_numbers

        assert isinstance(rows, MixedRows)
        return mixed_bucket_numbers(self._config, rows.mixture, rows.sizes_by_source())

    def _left_out(self, rows: Rows) -> list[Skipped]:
        assert isinstance(rows, MixedRows)
        return rows.left_out(self._share)
