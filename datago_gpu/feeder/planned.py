"""Lists the samples of one rank in the order of a plan: this rank's part of each global batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import Rejected, SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.imaging.geometry import Size
from datago_gpu.plan.taken import Taken
from datago_gpu.sources.order import RankShare, renumber
from datago_gpu.sources.reference import ListingDigest, Refs, SampleRef, Skipped
from datago_gpu.sources.rows import Rows, RowsSource, planned_sizes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.plan.global_batches import GlobalBatches
    from datago_gpu.plan.of_rows import EpochPlan

__all__ = ["Begin", "PlannedRows", "Step", "Unplanned", "planned", "step_of"]

_UNPLANNED = -2
"""The numbers of samples that are in no plan go down from here: they have no place in a batch."""


class Step(Struct):
    """One rank's part of a global batch."""

    number: int
    """Counted from 0 in the part of the epoch that is planned with this run's G."""
    bucket: Size
    places: list[int]
    """For each place of the rank's batch, which of the step's samples is there. A sample may be at several places."""
    first_places: list[int]
    """For each of the step's different samples, the first place where it is."""
    real: list[bool]
    """For each place, whether its sample counts there; if not, it only completes the global batch."""
    listed: ListingDigest | None
    """The digest of the rows on which the plan up to this step depends."""


Begin = Callable[[Step], None]
"""Is called with each step before the step's samples are yielded."""


class PlannedRows:
    """Plans rows that are known before the start."""

    def __init__(self, config: LoaderConfig, source: RowsSource[Any]) -> None:
        self._config, self._source, self._share = config, source, RankShare.of(config)
        self._stride, self._judge = config.most_samples, Unplanned(config)
        self._bucket_of: NDArray[np.int16] | None = None
        self._bucket_rows: Rows | None = None
        self.dropped = 0
        """Number of this rank's rows that `drop_last` has left out."""
        self.limited = False
        """Whether the next step has more samples than the limit leaves."""
        self.epoch_samples: int | None = None
        """Number of this rank's places in the epoch that is planned; None until there is a plan."""

    def resume(self, epoch: int, listed: ListingDigest | None) -> None:
        """Prepares the epoch in which a run resumes. listed: of the state. There is nothing to do if each epoch has
        the same rows."""

    async def refs(self, epoch: int, taken: Sequence[Taken], most: int | None, begin: Begin) -> Refs:
        """Yields this rank's samples of the rest of an epoch, in the order of the plan. The rows that are in no plan
        follow, as skips.

        taken: as for `plan_rest`. most: number of samples to yield at most, in whole steps; None: all.
        Raises ConfigError if no row has a size, and MoreTaken.
        """
        source, share = self._source, self._share
        rows = await self._rows_of(epoch, taken)
        plan, unplanned = await call_in_thread(None, self._plan, rows, await source.order(epoch), taken)
        self.epoch_samples = int(plan.starts[-1]) // share.world_size
        first = taken[-1][1]
        last = _within(plan, share, first, most)
        async with aclosing(rows.read(_numbers(plan, share, first, last))) as samples:
            for number in range(first, last):
                step, _ = _step(plan, share, number, source.tally.listed)
                begin(step)
                for at in range(len(step.first_places)):
                    sample = await anext(samples, None)
                    if sample is None:
                        raise SourceError("the rows have ended before their plan: they were changed during the run")
                    yield planned(sample, step, at, self._stride)
        if last < len(plan):
            self.limited = True
            return
        self.dropped += len(plan.left_out[share.rank :: share.world_size])
        passing = rows.passing()
        if passing is not None:
            unplanned = unplanned[passing[unplanned]]
        for skipped in self._left_out(rows):
            yield skipped
        async with aclosing(rows.read(unplanned[share.rank :: share.world_size])) as samples:
            async for sample in samples:
                yield self._judge(sample, sample.index)

    async def _rows_of(self, epoch: int, taken: Sequence[Taken]) -> Rows:  # noqa: ARG002
        """Returns the rows of an epoch. taken: as for `refs`."""
        rows: Rows = await self._source.rows_of(epoch)
        return rows

    def _plan(self, rows: Rows, order: NDArray[np.int64], taken: Sequence[Taken]) -> EpochPlan:
        # These import numpy, and most streams never need it here.
        from datago_gpu.plan.of_rows import plan_rows

        return plan_rows(self._config, self._buckets(rows), order, taken)

    def _buckets(self, rows: Rows) -> NDArray[np.int16]:
        """Returns the number of the bucket of each row."""
        if self._bucket_of is None or self._bucket_rows is not rows:
            self._bucket_of, self._bucket_rows = self._bucket_numbers(rows), rows
        return self._bucket_of

    def _bucket_numbers(self, rows: Rows) -> NDArray[np.int16]:
        from datago_gpu.plan.of_rows import bucket_numbers

        return bucket_numbers(self._config, planned_sizes(rows))

    def _left_out(self, rows: Rows) -> list[Skipped]:
        """Returns what stands for this rank's rows that `where` leaves out."""
        passing, share = rows.passing(), self._share
        count = 0 if passing is None else int((~passing[share.rank :: share.world_size]).sum())
        return [Skipped.filtered(_UNPLANNED, count)] if count else []


def _numbers(plan: GlobalBatches, share: RankShare, first: int, last: int) -> NDArray[np.int64]:
    """Returns the numbers of this rank's rows in these steps, in their order: in each step, each row once."""
    import numpy as np

    full = max(first, min(last, plan.complete))  # batches with repeats are the last ones
    begin, end = plan.starts[first], plan.starts[full]  # each step has as many places of each rank
    ours = plan.places[begin:end][share.rank :: share.world_size]
    rest = [_step(plan, share, number, None)[1] for number in range(full, last)]
    return np.concatenate([ours, *(np.array(numbers, np.int64) for numbers in rest)])


def _step(plan: GlobalBatches, share: RankShare, number: int, listed: ListingDigest | None) -> tuple[Step, list[int]]:
    """Returns this rank's part of a step, and the numbers of its different rows."""
    place = plan.step(number)
    rows: list[int] = plan.places[place][share.rank :: share.world_size].tolist()
    real: list[bool] = plan.real_places[place][share.rank :: share.world_size].tolist()
    height, width = plan.buckets[number].tolist()
    return step_of(number, (height, width), rows, real, listed)


def _within(plan: GlobalBatches, share: RankShare, first: int, most: int | None) -> int:
    """Returns the step behind the last one, from `first` on, of which this rank's samples are at most `most`."""
    if most is None:
        return len(plan)
    ends = plan.starts[first + 1 :] - plan.starts[first]
    return first + int(ends.searchsorted(most * share.world_size, side="right"))


def step_of(
    number: int, bucket: Size, rows: Sequence[int], real: list[bool], listed: ListingDigest | None
) -> tuple[Step, list[int]]:
    """Returns a step, and its different rows. rows: of each place."""
    first = dict(zip(reversed(rows), range(len(rows) - 1, -1, -1), strict=True))  # row -> the first of its places
    distinct = list(dict.fromkeys(rows))
    at = dict(zip(distinct, range(len(distinct)), strict=True))
    return Step(number, bucket, [at[row] for row in rows], [first[row] for row in distinct], real, listed), distinct


def planned(sample: SampleRef | Skipped, step: Step, at: int, stride: int) -> SampleRef | Skipped:
    """Returns sample number `at` of a step, with its number in the rank's order and its planned bucket.

    stride: how many numbers each step has; of these, a batch with fewer places has the last ones.
    """
    if isinstance(sample, SampleRef):
        sample.bucket = step.bucket
    return renumber(sample, (step.number + 1) * stride - len(step.places) + step.first_places[at])


class Unplanned:
    """Makes skips of the samples that are in no plan."""

    def __init__(self, config: LoaderConfig) -> None:
        self._choices = {name: each.bucket_choice() for name, each in config.by_source().items()}
        """Name of a source of a mix, or "" -> what chooses its buckets."""

    def __call__(self, sample: SampleRef | Skipped, position: int) -> Skipped:
        """Returns the skip of a sample. position: of its row."""
        index = _UNPLANNED - position
        if isinstance(sample, Skipped):
            return structs.replace(sample, index=index)
        mix = sample.info.mix
        if all(sample.size):
            try:
                self._choices[mix].choose(*sample.size)
            except Rejected as problem:
                return Skipped(index, sample.id, sample.where, problem.reason, f"listed as {problem.detail}", mix=mix)
        detail = "lockstep plans by width and height, and the listing has none for this sample"
        return Skipped(index, sample.id, sample.where, "no-size", detail, mix=mix)
