"""What a data set consists of, as the model knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FILTERED", "Item", "Lost", "Piece", "Shard"]

FILTERED = "filtered"
"""Why an Item is skipped that `where` leaves out."""


@dataclass(frozen=True)
class Piece:
    """A mask or a further image of a sample."""

    size: int
    """Bytes of its file."""
    shape: tuple[int, int]
    """(height, width)"""
    color: int
    """Of its pixels: a label of a mask, red of an image."""
    skipped: str = ""
    """Why the feeder leaves its sample out; "" where it does not."""
    is_undecodable: bool = False
    """The decoder leaves its sample out."""


@dataclass(frozen=True)
class Item:
    """One sample of a data set: what its fate depends on, and what the trainer sees of it."""

    id: str
    shape: tuple[int, int]
    """(height, width) of the picture."""
    size: int
    """Bytes of its file."""
    skipped: str = ""
    """Why the source or the feeder leaves it out; "" where they do not."""
    is_lacking: bool = False
    """The source leaves it out already."""
    is_undecodable: bool = False
    """The decoder leaves it out."""
    is_converted: bool = False
    """The feeder decodes it itself, and sends pixels that are cut already."""
    color: int | None = None
    """Red of its pixels; None where they have no single colour."""
    attributes: str = "{}"
    """JSON."""
    flaw: str = ""
    """Why it has no attributes, although it should: "bad-attributes" or "no-caption"."""
    label: int | None = None
    """Of its class; None where there are none."""
    embedding: tuple[float, ...] = ()
    pieces: Mapping[str, Piece] = field(default_factory=dict)
    mix: str = ""
    """The name of its source in a mix."""
    pass_number: int | None = None
    """In a mix, the number of the pass through its source."""

    @property
    def is_filtered(self) -> bool:
        """`where` leaves it out. It is not bad."""
        return self.skipped == FILTERED

    @property
    def is_good(self) -> bool:
        return not (self.skipped or self.is_undecodable)


@dataclass(frozen=True)
class Lost:
    """The rest of a shard, which cannot be read. mix: as of an Item."""

    reason: str
    mix: str = ""


Shard = list[Item | Lost]
"""A Lost can only be its last entry."""
