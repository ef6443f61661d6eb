"""`Table`, the source of rows of tables. Imports pyarrow only when a `Table` is made."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig, TableSource
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.index_form import arrow
from datago_gpu.sources.order import RankShare, renumber
from datago_gpu.sources.reference import Position, Refs, Skipped
from datago_gpu.sources.rows import RowsSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.sources.http.http_client import HttpClient
    from datago_gpu.sources.table.table_rows import TableRows

__all__ = ["Table"]


class Table(RowsSource["TableRows"]):
    """The `Source` of source_type "table". Raises ConfigError if pyarrow is missing.

    Rows are shared and shuffled as any `Rows` are. Only Parquet tables that hold bytes have an order of their own, in
    which each row group is read about once: see `orders`.
    """

    def __init__(self, config: LoaderConfig, http: HttpClient) -> None:
        source = config.source_config
        assert isinstance(source, TableSource)
        arrow()
        self._config, self._source, self._http = config, source, http
        super().__init__(
            config, self._open, f"rows of {source.shown_path}", shuffled=source.random_sampling, split=source.rank_split
        )

    async def _open(self) -> TableRows:
        from datago_gpu.sources.table.opening import open_rows  # imports pyarrow

        return await open_rows(self._config, self._source, self._http)

    async def classes(self) -> list[str]:
        """Returns the names of the classes, in the order of their labels; none if the labels are only numbers."""
        return (await self.rows()).classes

    async def order(self, epoch: int) -> NDArray[np.int64]:
        """See `RowsSource.order`: row groups stay together where they are read one by one."""
        rows = await self.rows()
        return await self._numbers(rows, RankShare(0, 1), epoch) if rows.in_groups else await super().order(epoch)

    async def refs(self, start: Position) -> Refs:
        """See `Source.refs`."""
        rows = await self.rows()
        refs = self._refs_in_groups(rows, start) if rows.in_groups else super().refs(start)
        async with aclosing(refs) as samples:
            async for sample in samples:
                yield sample

    async def _refs_in_groups(self, rows: TableRows, start: Position) -> Refs:
        """Yields the samples of tables that are read row group by row group; rows that are mixed are read together."""
        block, index, passing = self._block_rows(rows), start.index, rows.passing()
        numbers = await self._numbers(rows, RankShare.of(self._config), start.epoch)
        first = block - index % block if block else 0
        async with aclosing(rows.read_blocks(numbers[index:], first, block)) as samples:
            async for sample in samples:
                passes = passing is None or passing[sample.index]
                yield renumber(sample if passes else Skipped.filtered(0), index)
                index += 1

    def _block_rows(self, rows: TableRows) -> int:
        return rows.block_rows(self._source.shuffle_buffer) if self._source.random_sampling else 0

    async def _numbers(self, rows: TableRows, share: RankShare, epoch: int) -> NDArray[np.int64]:
        """Returns the numbers of the rows of a share in the order in which row groups are read."""
        seed, split = self._config.seed, self._source.rank_split
        return await call_in_thread(None, rows.in_own_order, share, seed, epoch, self._block_rows(rows), split)
