"""The seam between where samples come from and everything after: a stream of references, in a fixed order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from datago_gpu.redact import printable

__all__ = [
    "BAD_ATTRIBUTES",
    "FURTHER_IMAGES",
    "Flaw",
    "ListingDigest",
    "Need",
    "Part",
    "Position",
    "Refs",
    "SampleRef",
    "Skipped",
    "Source",
    "Tally",
    "sample_bytes",
    "shown_path",
    "utf8_text",
    "words_bytes",
]


def utf8_text(path: str) -> str:
    """A path as text that can be sent: bytes that are not UTF-8 appear as "\\xNN", whatever the locale."""
    if path.isascii():
        return path
    try:
        name = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        name = path.encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def shown_path(path: str) -> str:
    """A path as a message may show it."""
    return printable(utf8_text(path))


Need = Callable[[int], Awaitable[None]]
"""Asks for the memory of a payload of so many bytes. Returns once there is room for it."""


class Part(Struct):
    """A further payload of a sample, beside its image."""

    name: str
    kind: Literal["mask", "image", "latent"]
    path: str = ""
    url: str = ""
    payload: bytes | None = None
    """As in SampleRef."""
    optional: bool = False
    """The sample may do without it, should it turn out to be gone."""


class SampleRef(Struct):
    """One sample to load: who it is and where its payloads lie. Holds no pixels."""

    index: int
    """Its number in this rank's order of the epoch, from 0."""
    id: str
    source: str = ""
    path: str = ""
    """The image's file, absolute; or empty, and then `url` is set."""
    url: str = ""
    payload: bytes | None = None
    """The image's bytes, where the source has them already (a shard holds its samples); `path` or `url` then only say
    where they came from."""
    parts: list[Part] = []
    """What else was asked for and is there."""
    attributes: bytes = b"{}"
    """A JSON object, as `attributes.checked` gives it."""
    flaws: dict[str, str] = {}
    """Reason -> what is wrong with the sample, which is delivered all the same; see `Flaw`."""
    tags: list[str] = []
    embedding: Sequence[float] | None = None
    duplicate_state: int | None = None
    cursor: str = ""
    """Where a source may start listing again to come upon this sample: its own words, or empty."""
    epoch: int = 0
    """The one that `index` belongs to; the feeder fills it in."""
    renew: Callable[[str], Awaitable[str]] | None = None
    """Asks the origin for a fresh address of the part so named, or with "" of the image, where addresses expire."""

    @property
    def has_image(self) -> bool:
        """False where only other things were asked for."""
        return bool(self.url or self.path or self.payload)

    @property
    def where(self) -> str:
        """The file or address, without its query (which may hold a signature), for messages."""
        url = self.url or (self.parts[0].url if self.parts else "")
        return shown_path(self.path) if self.path else printable(url.partition("?")[0])


class Skipped(Struct, frozen=True):
    """One sample that will not be delivered, and why."""

    index: int
    id: str
    where: str
    reason: str
    """A short fixed word that skips are counted by, such as "truncated"."""
    detail: str = ""
    epoch: int = 0
    """The one that `index` belongs to; the feeder fills it in."""
    count: int = 1
    """About how many samples are lost with it: those of a shard that cannot be read on."""


def sample_bytes(sample: SampleRef | Skipped) -> int:
    """About the memory that a sample takes, with what its source has of its payloads."""
    if isinstance(sample, Skipped):
        return _OVERHEAD_BYTES
    parts = sum(len(part.payload or b"") for part in sample.parts)
    numbers = _NUMBER_BYTES * len(sample.embedding or ())
    return _OVERHEAD_BYTES + len(sample.payload or b"") + parts + words_bytes(sample) + numbers


def words_bytes(sample: SampleRef) -> int:
    """About the memory that attributes and tags of a sample take."""
    return len(sample.attributes) + sum(_TAG_BYTES + len(tag) for tag in sample.tags)


BAD_ATTRIBUTES = "bad-attributes"
"""Its attributes could not be read, and are empty for that."""
FURTHER_IMAGES = "further-images"
"""It had several images of which none was asked for by name: the first was taken."""


class Flaw(Struct, frozen=True):
    """One sample that is delivered without something, and why."""

    id: str
    where: str
    reason: str
    """A short fixed word that flaws are counted by: BAD_ATTRIBUTES or FURTHER_IMAGES."""
    detail: str = ""


class Position(Struct, frozen=True):
    """A place in the stream: the sample numbered `index` of an epoch."""

    epoch: int = 0
    index: int = 0
    cursor: str = ""
    """The `cursor` of the sample at `index`, or empty: then the listing starts over and is counted through."""


_OVERHEAD_BYTES, _TAG_BYTES, _NUMBER_BYTES = 1000, 60, 4

Refs = AsyncGenerator[SampleRef | Skipped, None]
"""A listing under way. Whoever iterates over a listing closes it with `contextlib.aclosing`, which ends its requests
and threads. The garbage collector would do that at an unknown time, in a task of its own."""


class ListingDigest(Struct, frozen=True, omit_defaults=True):
    """What was listed so far: how many names, and a digest of them in their order."""

    count: int
    digest: str
    marks: str = ""
    """Of a whole listing: short digests of its first 1, 2, 4, 8, ... names, which tell where a change begins."""
    lengths: str = ""
    """A digest of the lengths of what is listed, where those of all are known."""
    whole: bool = False
    """Nothing follows."""


class Tally:
    """Counts what a source lists. This one knows nothing: of a source whose listing cannot be told."""

    @property
    def listed(self) -> ListingDigest | None:
        """What was listed so far, where it is known."""
        return None

    @property
    def pending(self) -> bool:
        """Whether a state has still to be held to what is listed."""
        return False

    def expect(self, listed: ListingDigest | None, *, accepts: bool) -> None:
        """The next listing is to be held to that of a state. Where it is another one, ConfigError is raised as
        soon as that is clear; with `accepts`, a warning comes in its place."""


class Source(Protocol):
    """Lists samples. Raises SourceError where the origin fails for good."""

    @property
    def tally(self) -> Tally:
        """Counts what `refs` lists."""
        ...

    def refs(self, start: Position) -> Refs:
        """This rank's samples of the epoch `start.epoch`, from number `start.index` on, each with its number.

        Raises ConfigError where the listing is not the one that `tally` expects.
        """
        ...

    @property
    def passed_over(self) -> dict[str, int]:
        """Kind -> files that were listed and are no samples, as of the last listing that was complete."""
        ...
