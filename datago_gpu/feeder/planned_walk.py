"""Plans a listing that is walked, such as a Dataroom's: a global batch goes out as soon as it is full.

Every rank walks the whole listing, and keeps only the samples of the batches that are not full.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from datago_gpu.config import DataroomSource, LoaderConfig
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.planned import Begin, PlannedRows, not_planned, planned, step_of
from datago_gpu.plan.stream_planner import Planned, StreamPlanner
from datago_gpu.plan.taken import Taken
from datago_gpu.sources.order import RankShare
from datago_gpu.sources.reference import Position, Refs, SampleRef, Skipped, Source
from datago_gpu.sources.rows import RowsSource

__all__ = ["PlannedWalk", "open_plan"]

_UNSIZED = 1000
"""So many samples at the beginning of a listing may be without a size: if there are more, no sample has one."""
_NO_SIZES = (
    f"lockstep plans by width and height, and the first {_UNSIZED:,} samples of the listing have none. Make an index "
    "once, datago-gpu index CONFIG --out index.arrow, and load source_type 'table' with the path index.arrow"
)


def open_plan(config: LoaderConfig, source: Source) -> PlannedRows | PlannedWalk:
    """Returns the plan for a source, which lists the samples of all ranks. Raises ConfigError if there can be none."""
    if isinstance(source, RowsSource):
        return PlannedRows(config, source)
    if isinstance(config.source_config, DataroomSource):
        return PlannedWalk(config, source)
    raise ConfigError(
        "lockstep needs rows that are known before the start, and this source is read from its beginning to its end: "
        "pass a sequence (with len and [number]) of rows with width and height"
    )


class PlannedWalk:
    """Plans a listing that is walked in every epoch, with the methods of `PlannedRows`."""

    def __init__(self, config: LoaderConfig, source: Source) -> None:
        self._config, self._source, self._share = config, source, RankShare.of(config)
        self._table = config.image_config.buckets()
        self._places = self._share.select(range(config.batch_size * self._share.world_size))
        self.dropped = 0
        """Number of this rank's samples that `drop_last` has left out."""

    async def refs(self, epoch: int, taken: Sequence[Taken], most: int | None, begin: Begin) -> Refs:
        """Yields this rank's samples of the rest of an epoch, in the order of the plan, and between them the samples
        without a size, as skips: see `PlannedRows.refs`. Raises MoreTaken."""
        planner, number = StreamPlanner[SampleRef](taken, drop_last=self._config.drop_last), taken[-1][1]
        last = None if most is None else number + most
        async with aclosing(self._batches(epoch, planner)) as batches:
            async for batch in batches:
                if isinstance(batch, Skipped):
                    yield batch
                    continue
                for sample in self._ours(batch, number, begin):
                    yield sample
                number += 1
                if number == last:
                    return
        self.dropped += len(self._share.select(planner.left_out))

    async def _batches(
        self, epoch: int, planner: StreamPlanner[SampleRef]
    ) -> AsyncGenerator[Planned[SampleRef] | Skipped, None]:
        """Walks the listing. Yields the global batches, and this rank's share of the samples that are in none."""
        unsized: int | None = 0
        async with aclosing(self._source.refs(Position(epoch))) as samples:
            async for sample in samples:
                if isinstance(sample, SampleRef) and all(sample.size):
                    unsized = None
                    for batch in planner.add(sample, self._table.nearest(*sample.size)):
                        yield batch
                    continue
                if unsized is not None and isinstance(sample, SampleRef):
                    unsized += 1
                    if unsized > _UNSIZED:
                        raise ConfigError(_NO_SIZES)
                if planner.caught_up and self._share.index_of(sample.index) is not None:
                    yield not_planned(sample, sample.index)
        for batch in planner.end():
            yield batch

    def _ours(self, batch: Planned[SampleRef], number: int, begin: Begin) -> Iterator[SampleRef | Skipped]:
        """Yields this rank's samples of a global batch, after a call of `begin`."""
        count = len(batch.rows)
        rows, real = [place % count for place in self._places], [place < count for place in self._places]
        step, distinct = step_of(number, batch.bucket, rows, real, self._source.tally.listed)
        begin(step)
        return (planned(batch.rows[row], step, at) for at, row in enumerate(distinct))
