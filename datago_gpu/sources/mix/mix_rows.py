"""The rows of a mix, for a plan of global batches: each occurrence of a row in an epoch is a row of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import structs

from datago_gpu.config import LoaderConfig, MixSource
from datago_gpu.errors import ConfigError, DatagoError, SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.mix.mix_classes import check_mixed_classes
from datago_gpu.sources.mix.mix_listing import Stretch, marked, named, no_samples, stretches_text
from datago_gpu.sources.mix.turns import pass_number
from datago_gpu.sources.order import RankShare, renumber
from datago_gpu.sources.reference import ListingDigest, Refs, SampleRef, Skipped, Source
from datago_gpu.sources.rows import Numbers, Rows, RowsSource
from datago_gpu.sources.tally import Known

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datago_gpu.sources.mix.mixture import Mixture

__all__ = [
    "KeptRows",
    "MixedRows",
    "MixedRowsSource",
    "kept_order",
    "mixture_of",
    "open_mixed_rows",
]

_DIGEST_BYTES = 8
_UNPLANNED = -2
"""The index of what stands for rows that `where` leaves out, as in any plan."""


def open_mixed_rows(config: LoaderConfig, sources: Mapping[str, Source]) -> MixedRowsSource:
    """Returns the source of a mix in lockstep. Raises ConfigError if a source has no rows that are known."""
    rows: dict[str, RowsSource[Rows]] = {
        name: source for name, source in sources.items() if isinstance(source, RowsSource)
    }
    for name in sources.keys() - rows.keys():
        raise ConfigError(
            f"source {name!r} of the mix: lockstep needs rows that are known before the start, and this source is read "
            "from its beginning to its end: give a sequence of rows, or make an index (datago-gpu index CONFIG --out "
            "index.arrow) and load it as a table"
        )
    return MixedRowsSource(config, rows)


class MixedRowsSource(RowsSource["MixedRows"]):
    """The `Source` of a mix in lockstep. Only plans use it: it has an order and rows, but `refs` is never called."""

    def __init__(self, config: LoaderConfig, sources: Mapping[str, RowsSource[Rows]]) -> None:
        assert isinstance(config.source_config, MixSource)
        self._mix, self._sources = config.source_config, sources
        super().__init__(config, self._open, "rows of the mix", shuffled=False, split="shuffled")
        self.tally = self._compared = MixKnown("rows of the mix")
        self._changed: dict[int, MixedRows] = {}
        """Epoch -> its rows, for epochs in which weights change."""

    def _digest(self, rows: MixedRows) -> ListingDigest:
        """Returns a digest of the rows of all sources and their sizes, which no weight changes."""
        found = blake2b(digest_size=_DIGEST_BYTES)
        for name, source in self._sources.items():
            listed = source.tally.listed
            assert listed is not None
            found.update(f"{name}\0{listed.count}\0{listed.digest}\0".encode())
        return structs.replace(rows.listed, digest=found.hexdigest())

    async def change(self, epoch: int, stretches: Sequence[Stretch]) -> None:
        """Sets the weights of an epoch, which may change within it."""
        rows = await self.rows()
        counts = {name: len(each) for name, each in rows.kept.items()}
        mixture = await call_in_thread(None, mixture_of, self._mix, counts, stretches)
        self._changed = {epoch: MixedRows(rows.kept, mixture)}
        self._compared.stretches = stretches_text(stretches)

    async def rows_of(self, epoch: int) -> MixedRows:
        """See `RowsSource.rows_of`."""
        if epoch in self._changed:
            return self._changed[epoch]
        self._compared.stretches = ""
        return await self.rows()

    async def _open(self) -> MixedRows:
        rows: dict[str, Rows] = {}
        for name, source in self._sources.items():
            try:
                rows[name] = await source.rows()
            except DatagoError as problem:
                raise named(problem, name) from problem
        await check_mixed_classes(self._mix, self._sources)
        kept = {name: KeptRows(each) for name, each in rows.items()}
        counts = {name: len(each) for name, each in kept.items()}
        mixture = await call_in_thread(None, mixture_of, self._mix, counts)
        return MixedRows(kept, mixture)

    async def order(self, epoch: int) -> NDArray[np.int64]:
        """See `RowsSource.order`: the numbers of occurrences."""
        rows = await self.rows_of(epoch)
        mixture, orders = rows.mixture, {}
        for number, (name, source) in enumerate(self._sources.items()):
            for before in range(mixture.passes[number]):
                order = await source.order(pass_number(epoch, before))
                orders[number, before] = rows.kept[name].places_of(order)
        rows.epoch = epoch
        return await call_in_thread(None, mixture.order, lambda number, before: orders[number, before])


class MixKnown(Known):
    """Compares the rows of a mix. Its digests have the weights of the current epoch, if they change within it."""

    stretches = ""
    """See `stretches_text`; empty for the weights of the settings."""

    @property
    def listed(self) -> ListingDigest | None:
        """Returns the digest of all rows."""
        listed = super().listed
        return structs.replace(listed, samples=self.stretches) if listed and self.stretches else listed


def mixture_of(mix: MixSource, counts: Mapping[str, int], stretches: Sequence[Stretch] = ()) -> Mixture:
    """Returns the order of sources with these numbers of rows. Raises SourceError if one has no row.

    stretches: the weights of the epoch; none: those of the settings.
    """
    from datago_gpu.sources.mix.mixture import Mixture  # imports numpy

    try:
        weights = stretches[-1].weights if stretches else mix.weights
        before = [(behind.start - each.start, each.weights) for each, behind in pairwise(stretches)]
        return Mixture(list(counts.values()), weights, mix.stop, repeats=mix.repeats, before=before)
    except ValueError as problem:
        name = list(counts)[problem.args[0]]
        raise SourceError(no_samples(name)) from None


class KeptRows:
    """The rows of one source that pass its `where`, numbered anew from 0."""

    def __init__(self, rows: Rows) -> None:
        import numpy as np

        self.rows, passing = rows, rows.passing()
        self.passing = passing
        self._numbers = None if passing is None else np.flatnonzero(passing)

    def __len__(self) -> int:
        return len(self.rows) if self._numbers is None else len(self._numbers)

    def sizes(self) -> NDArray[np.int32] | None:
        """Returns height and width of each row, (N, 2); None if unknown."""
        sizes = self.rows.sizes()
        return sizes if sizes is None or self._numbers is None else sizes[self._numbers]

    def numbers_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the numbers that these rows have among all rows."""
        return places if self._numbers is None else self._numbers[places]

    def places_of(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the numbers of the rows that pass, in the order of all rows."""
        return kept_order(order, self.passing)


def kept_order(order: NDArray[np.int64], passing: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Returns the order of the rows that pass, numbered anew from 0. order: of all rows."""
    if passing is None:
        return order
    places = passing.cumsum() - 1
    return places[order[passing[order]]]


class MixedRows:
    """The occurrences of the rows of several sources. Implements `Rows`."""

    def __init__(self, rows: Mapping[str, KeptRows], mixture: Mixture) -> None:
        self.kept, self.mixture = rows, mixture
        self._names = list(rows)
        self.epoch = 0
        """The epoch that is read."""

    @property
    def listed(self) -> ListingDigest:
        """See `Rows.listed`: `MixedRowsSource` has the digest."""
        return ListingDigest(sum(len(rows.rows) for rows in self.kept.values()), "", whole=True)

    def __len__(self) -> int:
        return self.mixture.occurrences

    def sizes(self) -> NDArray[np.int32] | None:
        """See `Rows.sizes`: sources that know none have 0."""
        import numpy as np

        found = [rows.sizes() for rows in self.kept.values()]
        if all(sizes is None for sizes in found):
            return None
        return self.mixture.repeat(
            [
                np.zeros((len(rows), 2), np.int32) if sizes is None else sizes
                for rows, sizes in zip(self.kept.values(), found, strict=True)
            ]
        )

    def passing(self) -> NDArray[np.bool_] | None:
        """See `Rows.passing`: rows that `where` leaves out have no occurrence."""
        return None

    def left_out(self, share: RankShare) -> list[Skipped]:
        """Returns what stands for the rows of a rank's share that `where` leaves out, for each source."""
        counts = {name: int((~rows.passing[share.rank :: share.world_size]).sum())
                  for name, rows in self.kept.items() if rows.passing is not None}  # fmt: skip
        return [
            structs.replace(Skipped.filtered(_UNPLANNED, count), where=name, mix=name)
            for name, count in counts.items()
            if count
        ]

    def sizes_by_source(self) -> dict[str, NDArray[np.int32] | None]:
        """Returns name of a source -> height and width of each of its rows, (N, 2), or None."""
        return {name: rows.sizes() for name, rows in self.kept.items()}

    async def read(self, numbers: Numbers) -> Refs:
        """See `Rows.read`."""
        import numpy as np

        wanted = np.asarray(numbers, np.int64)
        of_source = self.mixture.sources_of(wanted)
        async with AsyncExitStack() as stack:
            readers: list[AsyncGenerator[SampleRef | Skipped, None]] = []
            for number, (name, rows) in enumerate(self.kept.items()):
                mine = wanted[of_source == number]
                reader = self._read_source(name, rows, self.mixture.rows_of(number, mine))
                readers.append(await stack.enter_async_context(aclosing(reader)))
            for number, occurrence in zip(of_source.tolist(), wanted.tolist(), strict=True):
                sample = await anext(readers[number], None)
                if sample is None:
                    raise SourceError("the rows have ended before their plan: they were changed during the run")
                yield self._marked(sample, occurrence)

    async def _read_source(self, name: str, rows: KeptRows, numbers: NDArray[np.int64]) -> Refs:
        """Yields rows of one source. Raises DatagoErrors, which name the source."""
        try:
            async with aclosing(rows.rows.read(rows.numbers_of(numbers))) as samples:
                async for sample in samples:
                    yield sample
        except DatagoError as problem:
            raise named(problem, name) from problem

    def _marked(self, sample: SampleRef | Skipped, occurrence: int) -> SampleRef | Skipped:
        """Returns the sample with the number of the occurrence, the name of its source, and the number of the pass."""
        place = self.mixture.locate(occurrence)
        number = pass_number(self.epoch, place.before)
        return renumber(marked(sample, self._names[place.source], number), occurrence)
