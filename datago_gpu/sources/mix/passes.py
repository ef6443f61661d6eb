"""The passes through one source of a mix within an epoch, one after the other."""

from __future__ import annotations

import msgspec

from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.sources.mix.mix_listing import MixTally, named
from datago_gpu.sources.mix.mix_places import Place
from datago_gpu.sources.mix.turns import pass_number
from datago_gpu.sources.reference import PartlyDone, Position, Refs, SampleRef, Skipped, Source

__all__ = ["Passes"]

_encoder = msgspec.json.Encoder()


class Passes:
    """Reads the samples of a source. The source is not opened before its first sample is asked for.

    name: of the source. place: where it begins. samples: of the state, see `ListingDigest.samples`. tally: of the mix.
    """

    def __init__(
        self, name: str, source: Source, tally: MixTally, epoch: int, place: Place, samples: str, *, filters: bool
    ) -> None:
        """filters: whether the source has a `where`."""
        if not filters and not place.index:
            place.index = place.given
        self.name, self.place = name, place
        self._passed_before = place.given if not place.index else 0
        """How many samples that pass `where` are to be dropped first: the place is behind them."""
        self._source, self._tally, self._epoch, self._samples = source, tally, epoch, samples
        self._refs: Refs | None = None
        self._ahead: list[SampleRef | Skipped | None] = []
        """The next sample of the pass, or its end, if it was read before it was asked for."""
        self.has_moved = True
        """Whether `place` has changed since `text` was called."""
        self._text = ""

    @property
    def number(self) -> int:
        """Returns the number of the current pass."""
        return pass_number(self._epoch, self.place.before)

    async def next(self) -> SampleRef | Skipped | None:
        """Returns the next sample of the pass; None at its end. Raises SourceError and ConfigError."""
        return self._ahead.pop() if self._ahead else await self._find()

    async def compare(self) -> None:
        """Begins to list the source, if its listing is still to be compared with that of a state: so a change of the
        data is noticed before the first sample of any source. Raises SourceError and ConfigError."""
        if self._source.tally.pending:
            self._ahead.append(await self._find())

    async def _find(self) -> SampleRef | Skipped | None:
        """Reads on to the place where this run begins, and returns the next sample."""
        while self._passed_before:
            sample = await self._read()
            if sample is None:
                self._passed_before = 0
                return None
            if sample.index >= 0:
                self.place.index, self.has_moved = _behind(sample), True
                self._passed_before -= not _is_filtered(sample)
        return await self._read()

    async def _read(self) -> SampleRef | Skipped | None:
        if self._refs is None:
            self._refs = self._source.refs(self._start())
            self._tally.opened.add(self.name)
        try:
            return await anext(self._refs, None)
        except (SourceError, ConfigError) as problem:
            raise named(problem, self.name) from problem

    def _start(self) -> Position:
        place = self.place
        if not place.index:
            return Position(self.number)
        done = [(0, place.index - 1)]
        return PartlyDone(self.number, place.index, place.cursor, done, self._samples)

    def begin_next(self) -> None:
        """Ends this pass. The next sample is the first of the next pass."""
        self._refs, self._samples = None, ""
        self.place = Place(self.place.taken, self.place.before + 1)
        self.has_moved = True

    def note_cursor(self, cursor: str) -> None:
        """Sets the cursor of the next sample."""
        if cursor:
            self.place.cursor = cursor
            self.has_moved = True

    def pass_over(self, sample: Skipped) -> None:
        """Counts samples that `where` leaves out: they take no turn."""
        self.place.index, self.has_moved = _behind(sample), True

    def advance(self) -> None:
        """Counts the next sample."""
        self.place.index += 1
        self.place.given += 1
        self.place.taken += 1
        self.has_moved = True

    def text(self) -> str:
        """Returns the place as text: JSON."""
        if self.has_moved:
            self._text, self.has_moved = _encoder.encode(self.place).decode(), False
        return self._text

    async def close(self) -> None:
        """Ends the listing."""
        if self._refs is not None:
            await self._refs.aclose()


def _is_filtered(sample: SampleRef | Skipped) -> bool:
    """Returns whether `where` leaves the sample out."""
    return isinstance(sample, Skipped) and sample.is_filtered


def _behind(sample: SampleRef | Skipped) -> int:
    """Returns the number of the sample that follows."""
    return sample.index + (sample.count if isinstance(sample, Skipped) and sample.is_filtered else 1)
