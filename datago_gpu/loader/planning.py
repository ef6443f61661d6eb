"""What a Loader can tell of its batches without loading: their number, their shapes, and their rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError, Rejected
from datago_gpu.loader.on_thread import call_on_thread
from datago_gpu.plan.taken import MoreTaken, Taken, continued, rows_together, together_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.feeder.wire import Resume
    from datago_gpu.loader.given_rows import GivenRows
    from datago_gpu.plan.global_batches import GlobalBatches
    from datago_gpu.sources.reference import Source

__all__ = ["Plans"]

_UNKNOWN = "the rows of source_type {!r} are not known before the start: stats() counts the batches as they come"


class _Known(NamedTuple):
    """Rows that are known before the start."""

    bucket_of: NDArray[np.int16]
    """The number of each row's bucket."""
    order: Callable[[int], NDArray[np.int64]]
    """Epoch -> the rows' numbers in its order."""
    resumed: Callable[[int, str, Sequence[Taken]], tuple[NDArray[np.int16], NDArray[np.int64]]] | None = None
    """Of a mix: epoch, weights of the state, and batches taken -> both, with weights that change within the epoch."""


class Plans:
    """The methods of Loader and LoaderDataset that tell of the batches in lockstep without loading anything."""

    _planner: Planner | None = None

    def __len__(self) -> int:
        """Returns the number of batches of an epoch, which is the same on all ranks.

        Raises TypeError, as Python's own objects without a length do, if the number is not known: without lockstep, and
        for a Dataroom.
        """
        try:
            return self._plan().steps(self._current_epoch())
        except TypeError as problem:
            raise TypeError(f"object of type {type(self).__name__!r} has no len(): {problem}") from None

    def __bool__(self) -> bool:
        return True  # whatever the length

    def shapes(self) -> list[tuple[int, int, int]]:
        """Returns (N, H, W) of each shape that a batch can have: what to compile before the first step.

        In lockstep these are exactly the shapes that occur; for a Dataroom, whose rows are not known before the start,
        those of all buckets. Without lockstep, too, these are those of all buckets, and N is the most that a batch can
        have: the last batches of an epoch have fewer samples, and batches that lose a bad one. Raises ConfigError if
        images keep their sizes.
        """
        return self._plan().shapes()

    def plan(self, epoch: int | None = None) -> GlobalBatches:
        """Returns the global batches of an epoch in lockstep, without loading any: arrays of buckets and row numbers.

        epoch: None for the one that is current. In an epoch that was resumed with another batch_size or world size, the
        plan is that of the rest. A Dataroom is listed for it; its rows are numbered in the order of the listing, after
        the shuffle. Raises ConfigError without lockstep, and what listing raises.
        """
        begin = self._begin()
        epoch = self._current_epoch() if epoch is None else epoch
        if epoch != begin.position.epoch:
            return self._plan().plan(epoch)
        return self._plan().plan(epoch, begin.taken, begin.listed.samples if begin.listed else "")

    def _plan(self) -> Planner:
        config, rows = self._planned()
        if self._planner is None or self._planner.config != config:
            self._planner = Planner(config, rows)
        return self._planner

    def _planned(self) -> tuple[LoaderConfig, GivenRows | None]:
        """Returns the settings, with rank and world size, and the program's own rows."""
        raise NotImplementedError

    def _begin(self) -> Resume:
        """Returns where the current run began."""
        raise NotImplementedError

    def _current_epoch(self) -> int:
        raise NotImplementedError


class Planner:
    """Plans the epochs of a run in lockstep. The sizes of rows are read once, when they are first needed.

    config: with rank and world size. rows: of the program's own.
    """

    def __init__(self, config: LoaderConfig, rows: GivenRows | None = None) -> None:
        self.config, self._rows = config, rows
        self._together = together_of(config)
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._counts: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Returns the number of batches of the first epoch: see `steps`."""
        return self.steps(0)

    def steps(self, epoch: int) -> int:
        """Returns the number of batches of an epoch, which depends on the epoch only in a mix: the rows of a pass that
        is not whole differ from epoch to epoch. Raises TypeError if the rows are not known before the start."""
        config = self.config
        if not config.lockstep:
            raise TypeError("without lockstep, the number of batches depends on which pictures turn out bad")
        if not self._are_known():
            raise TypeError(_UNKNOWN.format(config.source_type))
        if config.limit is not None and config.batch_pixels:
            return self._within_limit(config.limit, epoch)
        counts = self._count_in(epoch) if config.source_type == "mix" else self._count()
        full, rest = divmod(counts, self._each())
        steps = int(full.sum()) + (0 if config.drop_last else int((rest > 0).sum()))
        return steps if config.limit is None else min(steps, config.limit // config.batch_size)

    def _within_limit(self, limit: int, epoch: int) -> int:
        """Returns how many steps of an epoch have at most `limit` samples on each rank."""
        most = limit * self.config.rank_and_world_size()[1]
        return int(self.plan(epoch).starts[1:].searchsorted(most, side="right"))

    def _each(self) -> NDArray[np.int64]:
        """Returns G of each bucket."""
        import numpy as np

        return np.array([rows_together(self._together, size) for size in self.config.bucket_choice().sizes], np.int64)

    def shapes(self) -> list[tuple[int, int, int]]:
        """Returns (N, H, W) of each shape that a batch of images can have, without their channels.

        Raises ConfigError if images keep their sizes.
        """
        config = self.config
        if not config.image_config.crop_and_resize or config.image_config.mixed_buckets:
            raise ConfigError(
                "batches have no shapes that are known: set image_config.crop_and_resize to true, and mixed_buckets to "
                "false"
            )
        sizes = config.bucket_choice().sizes
        if config.lockstep and self._are_known():
            least = self._each() if config.drop_last else [1] * len(sizes)
            sizes = [size for size, count, full in zip(sizes, self._count(), least, strict=True) if count >= full]
        return [(config.samples_of(size), *size) for size in sizes]

    def plan(self, epoch: int, taken: Sequence[Taken] = (), weights: str = "") -> GlobalBatches:
        """Returns the global batches of an epoch. taken: of batches that were taken with other world or batch sizes.

        weights: of a mix, with which they were taken: see `weights_of_state`. Raises ConfigError without lockstep, or
        if more batches were taken than there are.
        """
        from datago_gpu.plan.of_rows import plan_rows

        self._check_lockstep()
        place: list[Taken] = [*continued(taken, self._together)[:-1], (self._together, 0)]
        try:
            if not self._are_known():
                return call_on_thread(self._walk, epoch, place)
            known = self._open()
            if weights and known.resumed:
                bucket_of, order = known.resumed(epoch, weights, taken)
                return plan_rows(self.config, bucket_of, order, place).batches
            return plan_rows(self.config, known.bucket_of, known.order(epoch), place).batches
        except MoreTaken:
            raise ConfigError(f"the rows make fewer batches in epoch {epoch} than were taken: {place}") from None

    def _check_lockstep(self) -> None:
        if not self.config.lockstep:
            raise ConfigError("only batches in lockstep are planned: set lockstep to true")

    def _are_known(self) -> bool:
        return self.config.source_type != "db" and (self._rows is None or self._rows.count is not None)

    def _count_in(self, epoch: int) -> NDArray[np.int64]:
        """Returns the number of rows of each bucket in an epoch."""
        import numpy as np

        known = self._open()
        found = known.bucket_of[known.order(epoch)]
        return np.bincount(found[found >= 0], minlength=len(self.config.bucket_choice().sizes))

    def _count(self) -> NDArray[np.int64]:
        """Returns the number of rows of each bucket."""
        import numpy as np

        if self._counts is None:
            found = self._open().bucket_of
            self._counts = np.bincount(found[found >= 0], minlength=len(self.config.bucket_choice().sizes))
        return self._counts

    def _open(self) -> _Known:
        with self._lock:
            if self._known is None:
                self._known = self._open_any()
            return self._known

    def _open_any(self) -> _Known:
        if self.config.source_type == "mix":
            from datago_gpu.loader.mix_planning import KnownMix

            mix = KnownMix(self.config, self._rows)
            return _Known(mix.bucket_of, mix.order, mix.resumed)
        return self._own_rows(self._rows) if self._rows else call_on_thread(self._open_source)

    def _own_rows(self, rows: GivenRows) -> _Known:
        from datago_gpu.loader.row_where import passing_rows
        from datago_gpu.plan.of_rows import bucket_numbers
        from datago_gpu.sources.order import epoch_order
        from datago_gpu.sources.rows import without_filtered

        config = self.config
        sizes = without_filtered(rows.sizes.get(), passing_rows(rows, config.source_config.where))
        assert sizes is not None
        shuffled = getattr(config.source_config, "random_sampling", False)
        return _Known(
            bucket_numbers(config, sizes), lambda epoch: epoch_order(len(sizes), config.seed, epoch, shuffled=shuffled)
        )

    async def _open_source(self) -> _Known:
        from datago_gpu.feeder.runtime import http_client
        from datago_gpu.plan.of_rows import bucket_numbers
        from datago_gpu.sources.rows import RowsSource, planned_sizes

        async with http_client(self.config) as http:
            source = self._source(http)
            assert isinstance(source, RowsSource)
            rows = await source.rows()
            return _Known(
                bucket_numbers(self.config, planned_sizes(rows)), lambda epoch: call_on_thread(source.order, epoch)
            )

    async def _walk(self, epoch: int, taken: Sequence[Taken]) -> GlobalBatches:
        """Walks the listing and plans its samples, numbered from 0 in the order of the walk."""
        from datago_gpu.feeder.runtime import http_client
        from datago_gpu.plan.global_batches import gathered
        from datago_gpu.plan.stream_planner import Planned, StreamPlanner
        from datago_gpu.sources.reference import Position, SampleRef

        config = self.config
        planner, choice = StreamPlanner[int](taken, drop_last=config.drop_last), config.bucket_choice()
        found: list[Planned[int]] = []
        async with http_client(config) as http, aclosing(self._source(http).refs(Position(epoch))) as samples:
            async for sample in samples:
                if isinstance(sample, SampleRef) and all(sample.size):
                    with suppress(Rejected):
                        found += planner.add(sample.index, choice.bucket(*sample.size))
        found += planner.end()
        return gathered(found, self._together, int(self._each().max()), planner.left_out)

    def _source(self, http: Any) -> Source:
        from datago_gpu.sources import open_source

        return open_source(self.config.with_source(rank=0, world_size=1), http)
