"""Follows links in a shard to files of the same shard, such as the hard links that GNU tar writes."""

from __future__ import annotations

from typing import NamedTuple

from datago_gpu.sources.local import Patience

__all__ = ["Extent", "Links"]

_MOST_NAMES = 200_000
"""The most files of one shard whose places are remembered."""


class Extent(NamedTuple):
    """The place of a file's content in its shard, in bytes."""

    offset: int
    size: int


class Links:
    """Knows the places of the files of one shard that were read so far.

    path: of a local shard that is not compressed; None for other shards, whose files cannot be read a second time.
    """

    def __init__(self, path: str | None, patience: Patience) -> None:
        self._path, self._patience = path, patience
        self._places: dict[str, Extent] = {}

    @property
    def why(self) -> str:
        """Returns why a link could not be followed."""
        if self._path is None:
            return "links are supported only in local, uncompressed shards"
        return "no such file precedes the link"

    def note(self, name: str, link: str, offset: int, size: int) -> Extent | None:
        """Records a member. Returns the place of a link's target; None for any other member."""
        if self._path is None:
            return None
        place = self._places.get(link) if link else Extent(offset, size)
        if place is not None and len(self._places) < _MOST_NAMES:
            self._places[name] = place
        return place if link else None

    def read(self, place: Extent) -> bytes:
        """Reads and returns the content of a file. Raises OSError."""
        path = self._path
        assert path is not None

        def work() -> bytes:
            with open(path, "rb") as file:
                file.seek(place.offset)
                return file.read(place.size)

        return self._patience(work)
