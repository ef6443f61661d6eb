"""Defines the messages between the feeder process and the trainer's process, framed as `datago_gpu.framing` says.

Payloads are not part of messages: they lie in the arena.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field, msgpack

from datago_gpu.framing import HEADER_BYTES, body_length, frame
from datago_gpu.plan.taken import Taken
from datago_gpu.sources.cache.cache_counts import CacheCounts
from datago_gpu.sources.reference import Counted, ListingDigest, Position, Skipped
from datago_gpu.sources.sample_info import column_of
from datago_gpu.sources.user.row_wire import Form

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter  # importing asyncio would add 30 ms to `import datago_gpu`

__all__ = [
    "HEADER_BYTES",
    "ArrayForm",
    "Beat",
    "Carried",
    "Counts",
    "EncodedBatch",
    "Ended",
    "Failed",
    "Fills",
    "FromFeeder",
    "Mark",
    "Notice",
    "Number",
    "PartColumn",
    "QueueCount",
    "Report",
    "Resume",
    "SkippedOnly",
    "StageCount",
    "Start",
    "ToFeeder",
    "Trace",
    "ViewColumn",
    "epoch_and_index",
    "frame",
    "post",
    "read",
]

Number = int | tuple[int, int]
"""The index of a sample in a batch; or (epoch, index) if the sample is of an earlier epoch than the batch."""


def epoch_and_index(number: Number, epoch: int) -> tuple[int, int]:
    """Returns epoch and index of a sample in a batch of this epoch."""
    return number if isinstance(number, tuple) else (epoch, number)


class Carried(Struct, frozen=True):
    """Describes samples of an earlier epoch that wait in batches that are not full."""

    start: Position
    """Where the listing of that epoch must begin to include all of them."""
    indices: list[Counted]
    listed: ListingDigest | None = None
    """The digest that the listing of that epoch must have."""


class Resume(Struct, frozen=True):
    """Says where a stream begins, and which samples behind that place were delivered before."""

    position: Position = Position()
    done: list[tuple[Counted, Counted]] = []
    """Ranges [first, last] of samples of the epoch that were delivered or skipped."""
    delivered: Counted = 0
    """Samples delivered so far, over all epochs; they count against the limit."""
    carried: list[Carried] = []
    """The samples of earlier epochs that wait."""
    listed: ListingDigest | None = None
    """The digest that the listing must have, as far as it was used."""
    accepts_change: bool = False
    """Whether to go on if the listing has changed."""
    taken: list[Taken] = []
    """In lockstep: G and steps of each part of the epoch that was delivered before. `position.index`, `done` and
    `carried` then say nothing."""


class Mark(Struct, frozen=True):
    """Holds the position of a stream after a batch."""

    resume_at: Position
    """Where to begin so that no undelivered sample of the epoch is missed."""
    listed: ListingDigest | None = None
    """The listing's digest at the last sample that was sent or skipped by now."""
    carried: list[Carried] = []
    """The samples of earlier epochs that waited when this epoch began. Set in the first batch of an epoch only."""


class Start(Struct, frozen=True):
    """The first message to the feeder. It travels on a socket, not in arguments: it holds the API key."""

    config: bytes
    """JSON of the LoaderConfig."""
    resume: Resume
    log_level: int = logging.WARNING
    """Log messages of this level and above are sent, each as a `Notice`."""
    rows: Form | None = None
    """Describes the program's own rows, if there are any."""
    beat_s: float = 0.0
    """After so many seconds without a batch, the feeder sends its counts as a `Beat`. 0: never."""

    def __repr__(self) -> str:
        return f"Start(resume={self.resume!r})"

    def __rich_repr__(self) -> list[tuple[str, Resume]]:
        return [("resume", self.resume)]  # msgspec's own repr would show the key in a traceback with locals


class Report(Struct, frozen=True, tag="report"):
    """Sent to the feeder: a batch has been decoded, and its memory may be written again."""

    number: int
    failures: int = 0
    """How many of its samples could not be decoded; the feeder may deliver others instead."""


class Trace(Struct, frozen=True, tag="trace"):
    """Sent to the feeder: it shall record what its stages do from now on."""

    path: str
    """The file to write the events to, once a message with an empty path has come."""


ToFeeder = Report | Trace


class StageCount(Struct, frozen=True):
    """Holds the counters of one stage of the feeder since the start."""

    items: int = 0
    waited_input_s: float = 0.0
    waited_output_s: float = 0.0


class QueueCount(Struct, frozen=True, array_like=True):
    """Says how full a queue of the feeder is."""

    depth: int
    size: int
    """The most that the queue holds; 0 if memory limits it, not a number."""


class Counts(Struct, frozen=True):
    """Holds the counters of the feeder since the start."""

    stages: dict[str, StageCount] = {}
    cpu_s: float = 0.0
    """CPU time of the feeder process, in seconds."""
    passed_over: dict[str, int] = {}
    """Kind -> number of files that the source has listed and that are no samples."""
    cache: CacheCounts = field(default_factory=CacheCounts)
    queues: dict[str, QueueCount] = {}
    """Name -> how full the queue is now."""
    epoch_samples: int | None = None
    """Number of this rank's samples in an epoch, if the source knows it by now."""

    def plus(self, other: Counts) -> Counts:
        """Returns the sum of the counters of two feeders that ran one after the other."""
        return Counts(
            {name: _sum(other.stages.get(name, StageCount()), count) for name, count in self.stages.items()},
            self.cpu_s + other.cpu_s,
            self.passed_over or other.passed_over,  # both have listed the same files
            self.cache.plus(other.cache),
            self.queues,
            self.epoch_samples or other.epoch_samples,
        )


def _sum(one: StageCount, other: StageCount) -> StageCount:
    return StageCount(
        one.items + other.items,
        one.waited_input_s + other.waited_input_s,
        one.waited_output_s + other.waited_output_s,
    )


class ArrayForm(Struct, frozen=True, array_like=True):
    """Describes the array that numpy makes of the bytes of a latent. The feeder has checked that numpy can."""

    dtype: str
    """As numpy writes it, such as "<f2"."""
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first axis varies fastest."""


class PartColumn(Struct, frozen=True, kw_only=True):
    """Holds the parts of one name in a batch. Columns have K entries, one for each sample that has the part."""

    name: str
    kind: Literal["mask", "image", "latent"]
    rows: list[int]
    """Row numbers in the batch of the samples that have the part, ascending."""
    offsets: list[int]
    """Where each payload begins in the arena."""
    lengths: list[int]
    sizes: bytes
    """int32 (K, 2); for pictures."""
    regions: bytes
    """float32 (K, 4); for pictures."""
    rois: bytes = b""
    """float32 (K, 6): see `rois_of`; for pictures that do not keep their sizes, else empty."""
    orientations: bytes
    """uint8 (K,); for pictures."""
    largest: int = 0
    """Number of pixels of the largest picture; 0 for latents."""
    arrays: list[ArrayForm | None]
    """For latents; None for a latent of plain bytes."""


class ViewColumn(Struct, frozen=True, kw_only=True):
    """Says what a view after the first shows of the images of a batch."""

    bucket: tuple[int, int]
    regions: bytes
    """float32 (N, 4), in pixels of the pictures in the payloads."""
    crops: bytes
    """float32 (N, 4), in pixels of the original pictures."""
    rois: bytes
    """float32 (N, 6): see `rois_of`."""
    flipped: bytes = b""
    """bool (N,): which images the view mirrors. Empty if none is."""


class Fills(Struct, frozen=True):
    """Says which sample of a message is at each place of a batch of fixed size."""

    rows: list[int]
    """For each place, the row in the message."""
    real: list[bool]
    """For each place, whether it shows the sample planned there: not a repeat of another place, nor a bad sample."""
    bad: bool = False
    """Whether all samples were bad: the message then has no payloads, and its rows are the bad samples."""


class EncodedBatch(Struct, frozen=True, tag="batch", kw_only=True):
    """A batch of encoded images. Columns have N entries; arrays are packed in the machine's byte order."""

    number: int
    epoch: int
    """The epoch in which the batch was completed."""
    bucket: tuple[int, int] | None
    """The bucket of all samples; None if they have none, or if they have different ones: see `buckets`."""
    offsets: list[int]
    """Where each image's payload begins in the arena."""
    lengths: list[int]
    """Bytes of each image's payload. All are 0 if there are no images."""
    indices: list[Number]
    infos: dict[str, memoryview]
    """The samples' records, as `columns_of` returns them."""
    where_texts: memoryview
    """MessagePack of `wheres`."""
    flaws: dict[int, dict[str, str]]
    """Row of a sample -> reason of the flaw -> its description."""
    parts: list[PartColumn]
    sizes: bytes
    """int32 (N, 2)."""
    original_sizes: bytes
    """int32 (N, 2)."""
    regions: bytes
    """float32 (N, 4)."""
    crops: bytes
    """float32 (N, 4)."""
    rois: bytes
    """float32 (N, 6): see `rois_of`. Empty if images keep their sizes."""
    orientations: bytes
    """uint8 (N,)."""
    flipped: bytes = b""
    """bool (N,): which samples are shown mirrored, with their masks and additional images. Empty if none is."""
    further_views: list[ViewColumn] = []
    """The views after the first."""
    fills: Fills | None = None
    """Set in lockstep, where a batch has the same number of samples at each step."""
    buckets: bytes = b""
    """int32 (N, 2) if the batch holds samples of different buckets, else empty."""
    pixels: int = 0
    """Number of pixels of all its pictures, where they keep their sizes."""
    largest: int
    """Number of pixels of the largest image."""
    mark: Mark
    skipped: list[Skipped]
    counts: Counts

    @property
    def numbers(self) -> list[Number]:
        """Returns the numbers of the samples of the Batch: in lockstep, of its places."""
        if self.fills is None:
            return self.indices
        end = self.mark.resume_at.index
        return list(range(end - len(self.fills.rows), end))

    @property
    def counted(self) -> Container[int]:
        """Returns the rows whose samples count on this rank: in lockstep, a sample may only fill a place here."""
        if self.fills is None:
            return range(len(self.lengths))
        return {row for row, real in zip(self.fills.rows, self.fills.real, strict=True) if real}

    @property
    def ids(self) -> list[str]:
        """Returns the samples' ids. Decodes them at each call, as `column` does."""
        return self.column("id")

    @property
    def wheres(self) -> list[str]:
        """Returns where the samples lie, for messages. Decodes the texts at each call: few batches need them."""
        return msgpack.decode(self.where_texts, type=list[str])

    def column(self, name: str) -> list[Any]:
        """Decodes a field of the samples' records."""
        return column_of(self.infos, name, len(self.lengths))


class SkippedOnly(Struct, frozen=True, tag="skipped"):
    """Skips that are sent without a batch, since none is ready."""

    skipped: list[Skipped]
    counts: Counts


class Beat(Struct, frozen=True, tag="beat"):
    """The counts of a feeder that has no batch to send, because its source or its downloads take long."""

    counts: Counts


class Notice(Struct, frozen=True, tag="notice"):
    """A message for the trainer's log. level: one of Python's logging levels."""

    level: int
    text: str


class Ended(Struct, frozen=True, tag="ended"):
    """The stream is complete."""

    skipped: list[Skipped]
    counts: Counts
    fruitless: bool = False
    """Whether the stream ends before its limit and its number of epochs because its last epochs brought no sample."""
    dropped: int = 0
    """Number of samples left out because their batches are not full: `drop_last`."""


class Failed(Struct, frozen=True, tag="failed"):
    """The stream ended early; all samples fetched before have been sent."""

    kind: str
    """Name of the class in `datago_gpu.errors` that the trainer raises."""
    message: str
    skipped: list[Skipped]


FromFeeder = EncodedBatch | SkippedOnly | Beat | Notice | Ended | Failed


async def read(reader: StreamReader) -> bytes:
    """Reads and returns the body of the next message. Raises asyncio.IncompleteReadError at the end."""
    return await reader.readexactly(body_length(await reader.readexactly(HEADER_BYTES)))


def post(writer: StreamWriter, message: Struct) -> None:
    """Sends a message without waiting. If the other side is gone, the code that reads from it notices."""
    if not writer.is_closing():
        writer.write(frame(message))
