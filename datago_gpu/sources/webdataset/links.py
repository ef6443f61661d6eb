"""Follows the links of a shard to the files of the same shard that they stand for, as GNU tar writes hard links."""

from __future__ import annotations

from typing import NamedTuple

from datago_gpu.sources.local import Patience

__all__ = ["Links", "Place"]

_MOST_NAMES = 200_000
"""Files of one shard whose places are kept."""


class Place(NamedTuple):
    """Where the content of a file lies in its shard, in bytes."""

    offset: int
    size: int


class Links:
    """Knows where the files of one shard lie, as far as they have come.

    path: of a local shard that is not compressed; None for any other, whose files cannot be read a second time.
    """

    def __init__(self, path: str | None, patience: Patience) -> None:
        self._path, self._patience = path, patience
        self._places: dict[str, Place] = {}

    @property
    def why(self) -> str:
        """Why a link could not be followed."""
        if self._path is None:
            return "links are followed in local shards without compression only"
        return "no such file comes before it"

    def note(self, name: str, link: str, offset: int, size: int) -> Place | None:
        """Take note of a member. Returns the place of the file that a link stands for; None for any other member."""
        if self._path is None:
            return None
        place = self._places.get(link) if link else Place(offset, size)
        if place is not None and len(self._places) < _MOST_NAMES:
            self._places[name] = place
        return place if link else None

    def read(self, place: Place) -> bytes:
        """The content of a file. Raises OSError."""
        path = self._path
        assert path is not None

        def work() -> bytes:
            with open(path, "rb") as file:
                file.seek(place.offset)
                return file.read(place.size)

        return self._patience(work)
