"""The interface between sources and all later stages: a source yields a stream of references in a fixed order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Annotated, Literal, NamedTuple, Protocol, Self

from msgspec import Meta, Struct, structs

from datago_gpu.redact import printable, shown_place
from datago_gpu.sources.sample_info import SampleInfo

__all__ = [
    "BAD_ATTRIBUTES",
    "FILTERED",
    "FILTERED_IN_MIX",
    "FURTHER_IMAGES",
    "Counted",
    "Flaw",
    "ListingDigest",
    "Need",
    "Part",
    "PartlyDone",
    "Position",
    "Refs",
    "SampleRef",
    "Skipped",
    "Source",
    "Span",
    "Tally",
    "printable_path",
    "sample_bytes",
    "utf8_text",
]


def utf8_text(path: str) -> str:
    """Returns a path as text that can be sent: bytes that are not UTF-8 appear as "\\xNN", whatever the locale."""
    if path.isascii():
        return path
    try:
        name = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        name = path.encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def printable_path(path: str) -> str:
    """Returns a path in a form that is safe to show in a message."""
    return printable(utf8_text(path))


Counted = Annotated[int, Meta(ge=0, le=1 << 62)]
"""A number that a state may hold: others are refused when the state is read."""

Need = Callable[[int], Awaitable[None]]
"""Asks for memory for a payload of the given number of bytes. Returns once there is room for the payload."""


class Span(NamedTuple):
    """Some bytes of a file."""

    begin: int
    length: int

    @property
    def end(self) -> int:
        """Returns the number of the first byte behind these."""
        return self.begin + self.length


class Part(Struct):
    """One more payload of a sample besides its image."""

    name: str
    kind: Literal["mask", "image", "latent"]
    path: str = ""
    url: str = ""
    payload: bytes | None = None
    """As `SampleRef.payload`."""
    optional: bool = False
    """Whether the sample is delivered without this part if the part is gone."""
    span: Span | None = None
    """As `SampleRef.span`."""


class SampleRef(Struct):
    """Describes one sample to load: its record, and where its payloads lie. Holds no pixels."""

    index: int
    """The sample's number in this rank's order of the epoch, from 0."""
    info: SampleInfo
    path: str = ""
    """The absolute path of the image's file; or empty, and then `url` is set."""
    url: str = ""
    payload: bytes | None = None
    """The image's bytes, if the source already has them (a shard holds its samples); `path` or `url` then only say
    where the bytes came from."""
    parts: list[Part] = []
    """The other payloads that were asked for and exist."""
    flaws: dict[str, str] = {}
    """Reason -> what is wrong with the sample, which is delivered nevertheless; see `Flaw`."""
    cursor: str = ""
    """Where the source can restart its listing to find this sample, in a form private to the source; or empty."""
    epoch: int = 0
    """The epoch that `index` belongs to; the feeder sets it."""
    size: tuple[int, int] = (0, 0)
    """(height, width) of the picture as the listing says, 0 if unknown. For a plan of global batches, and `where`."""
    bucket: tuple[int, int] | None = None
    """(height, width) of the bucket that a plan has for the sample, whatever its picture's size turns out to be."""
    passes: Callable[[SampleRef], bool] | None = None
    """Decides whether the sample is loaded, once its caption has been read: see `Where`."""
    renew: Callable[[str], Awaitable[str]] | None = None
    """Asks the origin for a new address of the part of that name, or with "" of the image, if addresses expire."""
    span: Span | None = None
    """The bytes of `path` or `url` that are the image, if the image is a part of a file."""
    caption: str = ""
    """The path or address, as that of the image, of a caption that the feeder reads with the image: see `captions`."""
    version: str = ""
    """Changes when the bytes at `url`, or those of the caption, change: see `Excerpt.tag`; "" if unknown. The cache
    keeps parts under the version of their image."""

    @property
    def id(self) -> str:
        """Returns the sample's id, for messages."""
        return self.info.id

    @property
    def drawn_epoch(self) -> int:
        """Returns the epoch that all draws for this sample use: in a mix, the pass through the sample's own source."""
        number = self.info.pass_number
        return self.epoch if number is None else number

    @property
    def has_image(self) -> bool:
        """Returns False if only other parts were asked for."""
        return bool(self.url or self.path or self.payload)

    @property
    def is_file(self) -> bool:
        """Returns whether the sample is one local file, or a part of one, that is still to be read."""
        return bool(self.path) and self.payload is None and not self.parts

    @property
    def where(self) -> str:
        """Returns the file, or the address without query (which may hold a signature) and login, for messages."""
        url = self.url or (self.parts[0].url if self.parts else "")
        return printable_path(self.path) if self.path else shown_place(url)


FILTERED_IN_MIX = -1
"""The index of what stands for samples that `where` of a source of a mix leaves out: in the mix they have no number."""
FILTERED = "filtered"
"""The reason of samples that the setting `where` leaves out. They are not bad, and are counted apart."""


class Skipped(Struct, frozen=True):
    """Describes one sample that will not be delivered, and why."""

    index: int
    id: str
    where: str
    reason: str
    """A short fixed word under which skips are counted, such as "truncated"."""
    detail: str = ""
    epoch: int = 0
    """The epoch that `index` belongs to; the feeder sets it."""
    count: int = 1
    """About how many samples are lost: more than one if the rest of a shard cannot be read. With the reason FILTERED:
    how many samples are left out, from number `index` on."""
    mix: str = ""
    """The name of its source, in a mix."""

    @classmethod
    def filtered(cls, index: int, count: int = 1) -> Self:
        """Returns what stands for samples that `where` leaves out."""
        return cls(index, "", "", FILTERED, count=count)

    @property
    def is_filtered(self) -> bool:
        """Returns whether `where` leaves the sample out, which is no fault of the sample."""
        return self.reason == FILTERED

    def joined(self, behind: Skipped) -> Skipped | None:
        """Returns one record for this one and the next one, if both are filtered and follow each other; else None."""
        if not (self.is_filtered and behind.is_filtered) or (self.epoch, self.mix) != (behind.epoch, behind.mix):
            return None
        if self.index + self.count == behind.index or (self.index < 0 and behind.index < 0):
            return structs.replace(self, count=self.count + behind.count)
        return None


def sample_bytes(sample: SampleRef | Skipped) -> int:
    """Returns about how many bytes of memory a sample takes, including the payloads that its source has read."""
    if isinstance(sample, Skipped):
        return _OVERHEAD_BYTES
    parts = sum(len(part.payload or b"") for part in sample.parts)
    info = sample.info.words_bytes + len(sample.info.embedding)
    return _OVERHEAD_BYTES + len(sample.payload or b"") + parts + info


BAD_ATTRIBUTES = "bad-attributes"
"""The sample's attributes could not be read, and are delivered empty."""
FURTHER_IMAGES = "further-images"
"""The sample had several images, and none was requested by name: the first one is delivered."""


class Flaw(Struct, frozen=True):
    """Describes one sample that is delivered incomplete, and why."""

    id: str
    where: str
    reason: str
    """A short fixed word under which flaws are counted: BAD_ATTRIBUTES or FURTHER_IMAGES."""
    detail: str = ""


class Position(Struct, frozen=True):
    """A position in the stream: the sample numbered `index` of an epoch."""

    epoch: Counted = 0
    index: Counted = 0
    cursor: str = ""
    """The `cursor` of the sample at `index`; if empty, the source lists from the beginning and counts up to `index`."""


class PartlyDone(Position, frozen=True):
    """A position from which on some samples are done already. A source may leave these samples out."""

    done: list[tuple[int, int]] = []
    """Ranges [first, last] of samples of the epoch that are done."""
    samples: str = ""
    """See `ListingDigest.samples`: of the state that says what is done."""

    @classmethod
    def behind(cls, place: Position, done: Iterable[tuple[int, int]], listed: ListingDigest | None) -> Self:
        """Returns the position `place`, before which all samples are done. listed: of the state."""
        ranges = [(0, place.index - 1), *done]
        return cls(place.epoch, place.index, place.cursor, ranges, listed.samples if listed else "")


_OVERHEAD_BYTES = 1000

Refs = AsyncGenerator[SampleRef | Skipped, None]
"""A running listing. Code that iterates over a listing must close it with `contextlib.aclosing`, which ends its
requests and threads. The garbage collector would close it at an unknown time, in a task of its own."""


class ListingDigest(Struct, frozen=True, omit_defaults=True):
    """Identifies the names listed so far: their number, and a digest of them in their order."""

    count: Counted
    digest: str
    marks: str = ""
    """Set for a whole listing: short digests of its first 1, 2, 4, 8, ... names, which show where a change begins."""
    lengths: str = ""
    """A digest of the lengths of all listed files, if all lengths are known."""
    whole: bool = False
    """Whether the listing is complete."""
    samples: str = ""
    """The number of samples of each shard that was read to its end, in the order of the epoch; see `ShardCounts`. Not
    compared."""


class Tally:
    """Counts the names that a source lists. This base class counts nothing: some listings cannot be identified."""

    @property
    def listed(self) -> ListingDigest | None:
        """Returns the digest of the names listed so far, or None if unknown."""
        return None

    @property
    def pending(self) -> bool:
        """Returns whether the listing has not yet been compared with that of a state."""
        return False

    def expect(self, listed: ListingDigest | None, *, accepts: bool) -> None:
        """Sets the digest of a state with which the next listing is compared. If they differ, ConfigError is raised
        as soon as that is known; with `accepts`, a warning is logged instead."""


class Source(Protocol):
    """Lists samples. Raises SourceError if the origin fails permanently."""

    @property
    def tally(self) -> Tally:
        """Returns the counter of the names that `refs` lists."""
        ...

    def refs(self, start: Position) -> Refs:
        """Yields this rank's samples of the epoch `start.epoch`, from number `start.index` on, each with its number.

        May leave out samples that are done, if `start` is a PartlyDone.

        Raises ConfigError if the listing is not the one that `tally` expects.
        """
        ...

    @property
    def passed_over(self) -> dict[str, int]:
        """Returns kind -> number of files that were listed and are no samples, from the last complete listing."""
        ...

    @property
    def epoch_samples(self) -> int | None:
        """Returns the number of this rank's samples in an epoch, those that `where` leaves out included; None as long
        as it is not known. Lists nothing for it."""
        ...
