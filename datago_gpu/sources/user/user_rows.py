"""Makes a `Source` of the program's own rows: of a sequence, whose rows have numbers, or of rows that are walked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig
from datago_gpu.config.user_source import UserSource
from datago_gpu.sources.reference import ListingDigest, Position, Refs, Source, Tally
from datago_gpu.sources.rows import Numbers, RowsSource
from datago_gpu.sources.user.row_wire import Listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.sources.user.row_link import RowLink

__all__ = ["UserRows", "UserWalk", "open_user_source"]


def open_user_source(config: LoaderConfig, link: RowLink) -> Source:
    """Returns the source of the program's own rows."""
    source = config.source_config
    assert isinstance(source, UserSource)
    if link.form.count is None:
        return UserWalk(link)

    async def load() -> UserRows:
        return await UserRows.load(link, sizes=config.lockstep)

    return RowsSource(config, load, "rows", shuffled=source.random_sampling, split=source.rank_split)


class UserRows:
    """A sequence of rows that lies in the trainer's process. Implements `Rows`."""

    def __init__(self, link: RowLink, count: int, listed: Listed) -> None:
        self._link, self._count, self._sizes, self._passing = link, count, listed.sizes, listed.passing
        self._listed = ListingDigest(count, listed.digest, whole=True)

    @classmethod
    async def load(cls, link: RowLink, *, sizes: bool) -> UserRows:
        """Asks the trainer's process for the digest of the sequence, and perhaps for all sizes. Raises SourceError."""
        assert link.form.count is not None
        return cls(link, link.form.count, await link.listed(sizes=sizes))

    @property
    def listed(self) -> ListingDigest:
        """See `Rows.listed`."""
        return self._listed

    def __len__(self) -> int:
        return self._count

    def sizes(self) -> NDArray[np.int32] | None:
        """See `Rows.sizes`."""
        import numpy as np  # only a plan needs it: importing it delays the start of the feeder

        return np.frombuffer(self._sizes, np.int32).reshape(-1, 2) if self._sizes else None

    def passing(self) -> NDArray[np.bool_] | None:
        """See `Rows.passing`. Known only in lockstep."""
        if self._passing is None:
            return None
        import numpy as np  # only a plan needs it

        return np.frombuffer(self._passing, np.bool_)

    def read(self, numbers: Numbers) -> Refs:
        """See `Rows.read`."""
        return self._link.read(numbers)


class UserWalk:
    """The `Source` of rows that are walked through. To resume, the rows before the position are left out."""

    def __init__(self, link: RowLink) -> None:
        self._link = link
        self.tally = Tally()

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`."""
        return {}

    @property
    def epoch_samples(self) -> int | None:
        """See `Source.epoch_samples`: not known."""
        return None

    def refs(self, start: Position) -> Refs:
        """See `Source.refs`."""
        return self._link.walk(start.epoch, start.index)
