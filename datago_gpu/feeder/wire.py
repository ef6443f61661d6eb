"""What the feeder process and the trainer's process say to each other, and how it is framed.

Each message is four bytes of length (big-endian) and MessagePack. Payloads do not travel here: they lie in the arena.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, msgpack

from datago_gpu.sources.base import ListingDigest, Position, Skipped

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter  # 30 ms that `import datago_gpu` can do without

__all__ = [
    "ArrayForm",
    "Carried",
    "Counts",
    "EncodedBatch",
    "Ended",
    "Failed",
    "FromFeeder",
    "Mark",
    "Notice",
    "Number",
    "PartColumn",
    "Report",
    "Resume",
    "SkippedOnly",
    "StageCount",
    "Start",
    "epoch_and_index",
]

HEADER_BYTES = 4


Number = int | tuple[int, int]
"""Of a sample of a batch: its index, or, where it is of an epoch before that of the batch, epoch and index."""


def epoch_and_index(number: Number, epoch: int) -> tuple[int, int]:
    """Those of a sample in a batch of this epoch."""
    return number if isinstance(number, tuple) else (epoch, number)


class Carried(Struct, frozen=True):
    """Samples of an earlier epoch that wait in batches that are not full."""

    start: Position
    """Where to begin to list that epoch so that all of them come."""
    indices: list[int]
    listed: ListingDigest | None = None
    """What the listing of that epoch has to be."""


class Resume(Struct, frozen=True):
    """Where to begin, and what of it was delivered before."""

    position: Position = Position()
    done: list[tuple[int, int]] = []
    """Ranges [first, last] of samples of the epoch that were delivered or skipped."""
    delivered: int = 0
    """Samples delivered so far, over all epochs, to count against the limit."""
    carried: list[Carried] = []
    """What waits of earlier epochs."""
    listed: ListingDigest | None = None
    """What the listing has to be, as far as it was used."""
    accepts_change: bool = False
    """Whether to go on where the listing is another one."""


class Mark(Struct, frozen=True):
    """Where a stream stands behind a batch."""

    resume_at: Position
    """Where to begin so that nothing of the epoch that is not delivered by now is missed."""
    listed: ListingDigest | None = None
    """What was listed up to the last sample that was sent or skipped by now."""
    carried: list[Carried] = []
    """What waited of earlier epochs when this epoch began. With the first batch of an epoch only."""


class Start(Struct, frozen=True):
    """The first message to the feeder. It travels on a socket, not in arguments: it holds the API key."""

    config: bytes
    """JSON of the LoaderConfig."""
    resume: Resume
    log_level: int = logging.WARNING
    """Messages of this level and above are wanted, as a `Notice` each."""

    def __repr__(self) -> str:
        return f"Start(resume={self.resume!r})"

    def __rich_repr__(self) -> list[tuple[str, Resume]]:
        return [("resume", self.resume)]  # msgspec's own would show the key in a traceback with locals


class Report(Struct, frozen=True):
    """To the feeder: a batch has been decoded, its memory may be written again."""

    number: int
    failures: int = 0
    """How many of its samples could not be decoded, so that others can be delivered for them."""


class StageCount(Struct, frozen=True):
    """What one stage of the feeder has counted since the start."""

    items: int = 0
    waited_input_s: float = 0.0
    waited_output_s: float = 0.0


class Counts(Struct, frozen=True):
    """What the feeder has counted since the start."""

    stages: dict[str, StageCount] = {}
    cpu_s: float = 0.0
    """CPU time of its process."""
    passed_over: dict[str, int] = {}
    """Kind -> files that the source has listed and that are no samples."""

    def plus(self, other: Counts) -> Counts:
        """Of two feeders, one after the other."""
        return Counts(
            {name: _sum(other.stages.get(name, StageCount()), count) for name, count in self.stages.items()},
            self.cpu_s + other.cpu_s,
            self.passed_over or other.passed_over,  # each of them has listed the same files
        )


def _sum(one: StageCount, other: StageCount) -> StageCount:
    return StageCount(
        one.items + other.items,
        one.waited_input_s + other.waited_input_s,
        one.waited_output_s + other.waited_output_s,
    )


class ArrayForm(Struct, frozen=True, array_like=True):
    """What numpy makes of the bytes of a latent. The feeder has made sure that numpy can."""

    dtype: str
    """As numpy writes it, such as "<f2"."""
    shape: tuple[int, ...]
    fortran: bool
    """The first axis is the one that varies fastest."""


class PartColumn(Struct, frozen=True, kw_only=True):
    """What goes with the images of a batch under one name. Columns have an entry for each sample that has it, K."""

    name: str
    kind: Literal["mask", "image", "latent"]
    rows: list[int]
    """Which samples of the batch have it, ascending."""
    offsets: list[int]
    """Where each payload begins in the arena."""
    lengths: list[int]
    sizes: bytes
    """int32 (K, 2), of pictures."""
    regions: bytes
    """float32 (K, 4), of pictures."""
    orientations: bytes
    """uint8 (K,), of pictures."""
    arrays: list[ArrayForm | None]
    """Of latents; None for one that is plain bytes."""


class EncodedBatch(Struct, frozen=True, tag="batch", kw_only=True):
    """A batch of encoded images. Columns have N entries; arrays are packed in the machine's byte order."""

    number: int
    epoch: int
    """In which the batch was completed."""
    bucket: tuple[int, int] | None
    """Of all samples; None where they have none, or different ones: `buckets`."""
    offset: int
    lengths: list[int]
    """Bytes of each image's payload; the first begins at `offset` of the arena, each on a multiple of ALIGNMENT. All 0
    where there are no images."""
    indices: list[Number]
    ids: list[str]
    wheres: list[str]
    sources: list[str]
    attributes: list[bytes]
    """JSON of an object each."""
    flaws: dict[int, dict[str, str]]
    """Row of a sample -> reason -> what is wrong with it."""
    tags: list[list[str]]
    duplicate_states: list[int | None]
    parts: list[PartColumn]
    embeddings: bytes
    """float32 (N, D), or empty."""
    sizes: bytes
    """int32 (N, 2)."""
    original_sizes: bytes
    """int32 (N, 2)."""
    regions: bytes
    """float32 (N, 4)."""
    crops: bytes
    """float32 (N, 4)."""
    orientations: bytes
    """uint8 (N,)."""
    buckets: bytes = b""
    """int32 (N, 2) where samples of different buckets are together, else empty."""
    pixels: int = 0
    """Of all its pictures, where they keep their sizes."""
    mark: Mark
    skipped: list[Skipped]
    counts: Counts


class SkippedOnly(Struct, frozen=True, tag="skipped"):
    """Skips for which there is no batch yet to travel with."""

    skipped: list[Skipped]
    counts: Counts


class Notice(Struct, frozen=True, tag="notice"):
    """A message for the trainer's log. level: as Python's logging has them."""

    level: int
    text: str


class Ended(Struct, frozen=True, tag="ended"):
    """The stream is complete."""

    skipped: list[Skipped]
    counts: Counts
    fruitless: bool = False
    """It ends before its limit and its number of epochs, since its last epochs brought no sample."""
    dropped: int = 0
    """Samples that waited in batches that are not full, and are left out: `drop_last`."""


class Failed(Struct, frozen=True, tag="failed"):
    """The stream ended early; all that was fetched before has been sent."""

    kind: str
    """Name of the class in `datago_gpu.errors` to raise."""
    message: str
    skipped: list[Skipped]


FromFeeder = EncodedBatch | SkippedOnly | Notice | Ended | Failed

_encoder = msgpack.Encoder()


def frame(message: Struct) -> bytes:
    """The bytes of a message, ready to send."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


async def read(reader: StreamReader) -> bytes:
    """The body of the next message. Raises asyncio.IncompleteReadError at the end."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(HEADER_BYTES), "big"))


def post(writer: StreamWriter, message: Struct) -> None:
    """Send a message without waiting. Where the other side is gone, whoever reads from it finds out."""
    if not writer.is_closing():
        writer.write(frame(message))
