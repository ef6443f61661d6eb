"""Rows: a listing that is known before the first sample, and whose samples can be read in any order.

A table and a sequence of the user's own are rows. `RowsSource` makes a `Source` of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from msgspec import structs

from datago_gpu.config import LoaderConfig
from datago_gpu.config.settings import RankSplit
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.order import RankShare, ShuffledShare, epoch_order, renumber
from datago_gpu.sources.reference import ListingDigest, Position, Refs, Skipped
from datago_gpu.sources.tally import Known

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Numbers", "Rows", "RowsSource", "planned_sizes", "without_filtered"]

_DIGEST_BYTES = 8

Numbers: TypeAlias = "range | NDArray[np.int64]"
"""Numbers of rows, in the order in which they are read."""


class Rows(Protocol):
    """Rows, numbered from 0. Each describes one sample."""

    @property
    def listed(self) -> ListingDigest:
        """Returns the digest of all rows (`whole`): other rows, or another order of them, have another digest."""
        ...

    def __len__(self) -> int: ...

    def sizes(self) -> NDArray[np.int32] | None:
        """Returns the pictures' sizes, upright, (N, 2): height and width, 0 where unknown. None if none is known."""
        ...

    def passing(self) -> NDArray[np.bool_] | None:
        """Returns whether `where` lets each row pass, (N,). None if all rows pass, or if the rows do not decide it."""
        ...

    def read(self, numbers: Numbers) -> Refs:
        """Yields the sample of each of these rows, in this order, or why a row has none. `index` is the row's number.

        Raises SourceError if the rows can no longer be read.
        """
        ...


R = TypeVar("R", bound=Rows)


class RowsSource(Generic[R]):
    """The `Source` of rows. Ranks take every world_size-th row; with a shuffle, of a permutation of all rows.

    applies_where: whether the rows decide which of them pass `where`. They must in lockstep, where only rows that pass
    are planned. If they do not, a `WhereSource` does.
    """

    def __init__(
        self, config: LoaderConfig, load: Callable[[], Awaitable[R]], what: str, *, shuffled: bool, split: RankSplit
    ) -> None:
        """load: opens the rows, for the first epoch. what: the word for rows in messages, used after a number."""
        self._share = RankShare.of(config)
        self._shuffled_share = ShuffledShare(config, split) if shuffled else None
        self._load, self._seed, self._shuffled = load, config.seed, shuffled
        self._lockstep = config.lockstep
        self.applies_where = config.lockstep or config.source_type == "table"
        self._rows: R | None = None
        self.tally = Known(what)

    async def rows(self) -> R:
        """Returns the rows, which the first call opens."""
        if self._rows is None:
            rows = await self._load()
            listed = await call_in_thread(None, self._digest, rows)
            self._rows = rows
            self.tally.set(listed)
        return self._rows

    def _digest(self, rows: R) -> ListingDigest:
        """Returns what a state has of the rows."""
        return _planned_digest(rows) if self._lockstep else rows.listed

    async def rows_of(self, epoch: int) -> R:  # noqa: ARG002
        """Returns the rows of an epoch, which are those of `rows` but in a mix."""
        return await self.rows()

    async def count(self) -> int:
        """Returns the number of this rank's rows."""
        return len(self._share.select(range(len(await self.rows()))))

    async def order(self, epoch: int) -> NDArray[np.int64]:
        """Returns the numbers of the rows of all ranks in the order of an epoch. A plan keeps this order."""
        count = len(await self.rows())
        return await call_in_thread(None, partial(epoch_order, count, self._seed, epoch, shuffled=self._shuffled))

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`."""
        return {}

    @property
    def epoch_samples(self) -> int | None:
        """See `Source.epoch_samples`: known once the rows are open."""
        return None if self._rows is None else len(self._share.select(range(len(self._rows))))

    async def refs(self, start: Position) -> Refs:
        """See `Source.refs`."""
        rows = await self.rows()
        mine: Numbers = range(self._share.rank, len(rows), self._share.world_size)
        if self._shuffled_share:
            mine = await call_in_thread(None, self._shuffled_share.numbers, len(rows), start.epoch)
        passing = rows.passing()
        samples = (
            rows.read(mine[start.index :]) if passing is None else _read_passing(rows, mine[start.index :], passing)
        )
        async with aclosing(samples) as listed:
            index = start.index
            async for sample in listed:
                yield renumber(sample, index)
                index += 1


async def _read_passing(rows: Rows, numbers: Numbers, passing: NDArray[np.bool_]) -> Refs:
    """Yields the samples of these rows. Rows that `where` leaves out are not read."""
    import numpy as np

    wanted = np.asarray(numbers, np.int64)
    passes = passing[wanted]
    async with aclosing(rows.read(wanted[passes])) as samples:
        for each in passes.tolist():
            sample = await anext(samples, None) if each else Skipped.filtered(0)
            if sample is None:
                return
            yield sample


def planned_sizes(rows: Rows) -> NDArray[np.int32] | None:
    """Returns the sizes as `Rows.sizes` does, with 0 also for rows that `where` leaves out: they are in no plan."""
    return without_filtered(rows.sizes(), rows.passing())


def without_filtered(sizes: NDArray[np.int32] | None, passing: NDArray[np.bool_] | None) -> NDArray[np.int32] | None:
    """Returns the sizes with 0 for each row that does not pass."""
    if sizes is None or passing is None:
        return sizes
    import numpy as np

    return np.where(passing[:, None], sizes, np.int32(0))


def _planned_digest(rows: Rows) -> ListingDigest:
    """Returns the digest of rows and of their sizes: a plan of other sizes has other batches."""
    listed, sizes = rows.listed, rows.sizes()
    if sizes is None:
        return listed
    digest = blake2b(listed.digest.encode() + b"\0", digest_size=_DIGEST_BYTES)
    digest.update(sizes.tobytes())
    return structs.replace(listed, digest=digest.hexdigest())
