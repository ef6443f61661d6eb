"""What a state has of a mix, beside a position: the weights, the passes that have ended, and each source's listing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct, structs

from datago_gpu.errors import ConfigError, DatagoError
from datago_gpu.sources.reference import Counted, ListingDigest, SampleRef, Skipped, Source, Tally

__all__ = [
    "MixListing",
    "MixTally",
    "PassLengths",
    "Stretch",
    "marked",
    "named",
    "no_samples",
    "parse_stretches",
    "stretches_text",
]

T = TypeVar("T")

PassLengths = list[tuple[Counted, Counted]]
"""The number of samples of passes that have ended, in their order, and how many passes in a row have that number.
Samples that `where` leaves out do not count."""


class Stretch(Struct, frozen=True, array_like=True):
    """The weights that hold from one place of an epoch on."""

    start: Counted
    """The index of the first sample."""
    weights: list[float | int]
    """Of each source. Only the ratios matter."""


def stretches_text(stretches: Sequence[Stretch]) -> str:
    """Returns the weights of an epoch as text: JSON."""
    return msgspec.json.encode(list(stretches)).decode()


def parse_stretches(text: str, count: int) -> list[Stretch]:
    """Returns the weights of an epoch; none of an empty text. count: of sources. Raises ConfigError."""
    if not text:
        return []
    found = _decode(text, list[Stretch])
    _check_counts(count, [each.weights for each in found])
    return found


def _decode(text: str, kind: type[T]) -> T:
    """Returns what a state has as text. Raises ConfigError."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"this is not the state of a mix: {error}") from error


def _check_counts(count: int, of_sources: Iterable[Sequence[object]]) -> None:
    """Raises ConfigError unless each of the sequences has a value for each of so many sources."""
    if any(len(each) != count for each in of_sources):
        raise ConfigError(f"this is not the state of a mix of {count} sources")


class SourceListing(Struct, frozen=True, omit_defaults=True):
    """What a state has of one source."""

    listed: ListingDigest | None = None
    lengths: PassLengths = []
    """Of the passes of this epoch."""

    def counts_of_pass(self, before: int) -> str:
        """Returns `ListingDigest.samples` of the pass that follows so many others; "" if `listed` is of another one:
        each pass has its own order of shards."""
        is_current = before == sum(times for _, times in self.lengths)
        return self.listed.samples if self.listed and is_current else ""


class MixListing(Struct, frozen=True):
    """What a state has of a mix, for one epoch."""

    stretches: list[Stretch] = []
    sources: list[SourceListing] = []

    @classmethod
    def parse(cls, text: str, count: int) -> MixListing:
        """Returns what `ListingDigest.samples` of a state has; of an empty text, nothing of any source.

        count: of sources. Raises ConfigError.
        """
        if not text:
            return cls(sources=[SourceListing()] * count)
        found = _decode(text, cls)
        _check_counts(count, [found.sources, *(each.weights for each in found.stretches)])
        return found


class MixTally(Tally):
    """Counts the names that the sources of a mix list, each with a tally of its own."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self.stretches: Sequence[Stretch] = ()
        self.lengths: list[PassLengths] = [[] for _ in sources]
        """Of each source."""
        self.opened: set[str] = set()
        """The sources that are being listed."""

    @property
    def listed(self) -> ListingDigest:
        """Returns the digests of all sources."""
        sources = [
            SourceListing(source.tally.listed, lengths)
            for source, lengths in zip(self._sources.values(), self.lengths, strict=True)
        ]
        return ListingDigest(0, "", samples=msgspec.json.encode(MixListing(list(self.stretches), sources)).decode())

    @property
    def pending(self) -> bool:
        """Returns whether the listing of a source has not yet been compared with that of a state. A source of which no
        sample was asked for, perhaps because its weight is 0, keeps no samples of the others back."""
        return any(self._sources[name].tally.pending for name in self.opened)

    def expect(self, listed: ListingDigest | None, *, accepts: bool) -> None:
        """See `Tally.expect`. Raises ConfigError, which names the source."""
        self.opened.clear()
        found = MixListing.parse(listed.samples if listed else "", len(self._sources))
        for (name, source), expected in zip(self._sources.items(), found.sources, strict=True):
            try:
                source.tally.expect(expected.listed, accepts=accepts)
            except DatagoError as problem:
                raise named(problem, name) from problem


def named(problem: DatagoError, name: str) -> DatagoError:
    """Returns the error with the name of the source of a mix where it has happened."""
    return type(problem)(f"source {name!r} of the mix: {problem}")


def marked(sample: SampleRef | Skipped, name: str, pass_number: int) -> SampleRef | Skipped:
    """Returns the sample with the name of its source and the number of the pass."""
    if isinstance(sample, Skipped):
        return structs.replace(sample, mix=name)
    sample.info = structs.replace(sample.info, mix=name, pass_number=pass_number)
    return sample


def no_samples(name: str, of_rank: str = "", *, filtered: int = 0) -> str:
    """Returns the words for a source that has no samples. filtered: number of samples that its `where` left out."""
    none = f"only samples that its where leaves out ({filtered:,})" if filtered else "no samples"
    return (
        f"source {name!r} of the mix has {none}{of_rank}, so it cannot have its share: remove the source, or set "
        "its weight to 0"
    )
