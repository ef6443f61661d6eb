"""Defines the messages of the socket on which the trainer's process sends rows of its own to the feeder.

The feeder orders rows, and the trainer answers in the order of the orders. Messages are framed as `datago_gpu.framing`
says, and the payloads that a message announces follow its frame. A payload is sent as it lies in memory: nothing is
pickled, and nothing is copied before the kernel does.

Batches are announced on another socket: a row may wait for the user's code, the report of a batch must not wait for a
row.
"""

from __future__ import annotations

from msgspec import Struct

from datago_gpu.config.settings import Kind

__all__ = [
    "Answer",
    "Broken",
    "Digest",
    "Form",
    "Given",
    "Listed",
    "More",
    "Order",
    "Piece",
    "Read",
    "Refused",
    "RowsEnd",
    "Walk",
]


class Form(Struct, frozen=True):
    """Describes the program's rows to the feeder. count: of a sequence; None if the rows are walked through."""

    count: int | None = None


class Digest(Struct, frozen=True, tag="digest"):
    """Orders the digest of a sequence. sizes: whether the sizes of all rows are wanted, too."""

    turn: int
    sizes: bool = False


class Read(Struct, frozen=True, tag="read"):
    """Orders rows of a sequence by their numbers.

    turn: number of this listing. The first order of a later turn cancels all that is left of earlier ones.
    """

    turn: int
    numbers: list[int]


class Walk(Struct, frozen=True, tag="walk"):
    """Begins to walk through the rows of an epoch: orders `count` of this rank's rows behind the first `start`."""

    turn: int
    epoch: int
    start: int
    count: int


class More(Struct, frozen=True, tag="more"):
    """Orders the next rows of the walk."""

    turn: int
    count: int


Order = Digest | Read | Walk | More


class Piece(Struct, frozen=True, array_like=True):
    """Says where one payload of a row is."""

    kind: Kind
    name: str = ""
    """Empty for the row's own image."""
    length: int = -1
    """The bytes of the payload behind the message; -1 if the payload is elsewhere."""
    path: bytes = b""
    """A local file: bytes, since a name need not be UTF-8."""
    url: str = ""


class Given(Struct, frozen=True, tag="row"):
    """A row. The payloads of its pieces follow the message, in their order."""

    turn: int
    number: int
    """The number of the row in the sequence or in the walk, over all ranks."""
    id: str
    attributes: bytes
    """JSON."""
    pieces: list[Piece]
    """The image first."""
    size: tuple[int, int] = (0, 0)
    """Height and width that the row says, 0 if unknown."""
    flaw: str = ""
    """Why the row's attributes cannot be sent."""
    label: int | None = None


class Refused(Struct, frozen=True, tag="refused"):
    """A row that cannot be loaded, and why."""

    turn: int
    number: int
    id: str
    reason: str
    detail: str


class RowsEnd(Struct, frozen=True, tag="end"):
    """The walk has come to the end of the epoch. empty: whether there was no row at all, for any rank."""

    turn: int
    empty: bool


class Broken(Struct, frozen=True, tag="broken"):
    """The user's code has failed, or has returned something that is no row."""

    turn: int
    message: str


class Listed(Struct, frozen=True, tag="listed"):
    """The digest of a sequence."""

    turn: int
    digest: str
    sizes: bytes = b""
    """int32 (N, 2), in the machine's byte order: height and width of each row, 0 where unknown."""
    passing: bytes | None = None
    """One byte for each row, 1 if `where` lets it pass; None if all pass. Sent together with sizes."""


Answer = Given | Refused | RowsEnd | Broken | Listed
