"""Plans a listing that is walked, such as a Dataroom's: a global batch goes out as soon as it is full.

Every rank walks the whole listing, and keeps only the samples of the batches that are not full.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from datago_gpu.config import DataroomSource, LoaderConfig
from datago_gpu.errors import ConfigError, Rejected
from datago_gpu.feeder.planned import Begin, PlannedRows, Unplanned, planned, step_of
from datago_gpu.imaging.geometry import Size
from datago_gpu.plan.stream_planner import Planned, StreamPlanner
from datago_gpu.plan.taken import Taken, rows_together, together_of
from datago_gpu.sources.order import RankShare
from datago_gpu.sources.reference import ListingDigest, Position, Refs, SampleRef, Skipped, Source
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
    if config.source_type == "mix":
        from datago_gpu.feeder.planned_mix import PlannedMix
        from datago_gpu.sources.mix.mix_rows import MixedRowsSource

        assert isinstance(source, MixedRowsSource)
        return PlannedMix(config, source)
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
        self._choice, self._judge = config.bucket_choice(), Unplanned(config)
        self._together, self._stride, self._least = together_of(config), config.most_samples, config.least_samples
        self.dropped = 0
        """Number of this rank's samples that `drop_last` has left out."""
        self.limited = False
        """See `PlannedRows.limited`."""
        self.epoch_samples: int | None = None
        """Not known: the listing is planned while it is walked."""

    def resume(self, epoch: int, listed: ListingDigest | None) -> None:
        """See `PlannedRows.resume`."""

    async def refs(self, epoch: int, taken: Sequence[Taken], most: int | None, begin: Begin) -> Refs:
        """Yields this rank's samples of the rest of an epoch, in the order of the plan, and between them the samples
        that are in no plan, as skips: see `PlannedRows.refs`. Raises MoreTaken."""
        planner, number = StreamPlanner[SampleRef](taken, drop_last=self._config.drop_last), taken[-1][1]
        left = sys.maxsize if most is None else most
        async with aclosing(self._batches(epoch, planner)) as batches:
            async for batch in batches:
                if isinstance(batch, Skipped):
                    yield batch
                    continue
                left -= rows_together(self._together, batch.bucket) // self._share.world_size
                if left < 0:
                    self.limited = True
                    return
                for sample in self._ours(batch, number, begin):
                    yield sample
                number += 1
                if left < self._least:
                    return
        self.dropped += len(self._share.select(planner.left_out))

    async def _batches(
        self, epoch: int, planner: StreamPlanner[SampleRef]
    ) -> AsyncGenerator[Planned[SampleRef] | Skipped, None]:
        """Walks the listing. Yields the global batches, and this rank's share of the samples that are in none."""
        unsized: int | None = 0
        async with aclosing(self._source.refs(Position(epoch))) as samples:
            async for sample in samples:
                if unsized is not None and isinstance(sample, SampleRef):
                    unsized = None if all(sample.size) else unsized + 1
                    if unsized and unsized > _UNSIZED:
                        raise ConfigError(_NO_SIZES)
                bucket = self._bucket(sample)
                if bucket and isinstance(sample, SampleRef):
                    for batch in planner.add(sample, bucket):
                        yield batch
                elif planner.caught_up and self._share.index_of(sample.index) is not None:
                    yield self._judge(sample, sample.index)
        for batch in planner.end():
            yield batch

    def _bucket(self, sample: SampleRef | Skipped) -> Size | None:
        """Returns the bucket of a sample by its listed size; None if it has no size, or is too small."""
        if isinstance(sample, Skipped) or not all(sample.size):
            return None
        try:
            return self._choice.bucket(*sample.size)
        except Rejected:
            return None

    def _ours(self, batch: Planned[SampleRef], number: int, begin: Begin) -> Iterator[SampleRef | Skipped]:
        """Yields this rank's samples of a global batch, after a call of `begin`."""
        count, share = len(batch.rows), self._share
        places = range(share.rank, rows_together(self._together, batch.bucket), share.world_size)
        rows, real = [place % count for place in places], [place < count for place in places]
        step, distinct = step_of(number, batch.bucket, rows, real, self._source.tally.listed)
        begin(step)
        return (planned(batch.rows[row], step, at, self._stride) for at, row in enumerate(distinct))
