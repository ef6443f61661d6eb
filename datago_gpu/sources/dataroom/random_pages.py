"""The server's own random pages, drawn again and again without repeats."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncGenerator, Mapping

from datago_gpu.sources.dataroom.api import DataroomApi
from datago_gpu.sources.dataroom.listing import Tasks
from datago_gpu.sources.dataroom.pages import AnyEntry
from datago_gpu.sources.shuffle import SplitMix64

__all__ = ["Draws", "key_of", "prefixes_for"]

_MAX_PREFIXES = 300
_LONGEST_PREFIX = 12
"""Longer ones are allowed; they would suit more images than there are."""
_NEARLY_ALL = 0.999
_FILL = 0.75
"""Share of a page that a draw should fill: what is beyond a full page is cut, and not evenly."""
_FRUITLESS = (10, 1000)
"""The least and the most draws in a row that bring nothing new before the source counts as drawn empty."""


def prefixes_for(share: float) -> tuple[int, int]:
    """prefix_length and num_prefixes that match about this share of all images, with many prefixes rather than few.

    n random prefixes of l hex digits, some of them equal, match 1 - (1 - 16**-l)**n of the images.
    """
    if share >= _NEARLY_ALL:
        return 1, _MAX_PREFIXES
    wanted = [math.log1p(-share) / math.log1p(-(16.0**-length)) for length in range(1, _LONGEST_PREFIX + 1)]
    length = max((length for length, number in enumerate(wanted, 1) if number <= _MAX_PREFIXES), default=1)
    return length, min(_MAX_PREFIXES, max(1, round(wanted[length - 1])))


def key_of(image_id: str) -> int:
    """A 64-bit number of an image: the same on every rank and machine."""
    return int.from_bytes(hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class Draws:
    """Asks for random pages until everything was seen, or draws bring nothing new.

    How wide a draw is follows the server's count, and then what comes back. An entry without an id is left out, since
    it could not be told from one that was seen.
    """

    def __init__(self, api: DataroomApi, filters: Mapping[str, str], *, page_size: int, generator: SplitMix64) -> None:
        self._api, self._filters, self._page_size, self._generator = api, filters, page_size, generator
        self._share = 1e-4  # about what the server's own defaults draw
        self._seen: set[int] = set()

    async def pages(self, shape: Mapping[str, str]) -> AsyncGenerator[list[tuple[int, AnyEntry]], None]:
        """The new entries of each draw that has any, for all ranks, in random order, each with its `key_of`.

        shape: the parameters that say what a page holds. Raises SourceError.
        """
        count = await self._api.count(self._filters)
        if count is not None:
            self._share = min(1.0, _FILL * self._page_size / max(1, count))
        fruitless = 0
        async with Tasks() as tasks:
            coming = tasks.start(self._api.page(self._address(shape)))
            while True:
                page = await coming
                self._adapt(len(page.results))
                new = self._new(page.results)
                fruitless = 0 if new else fruitless + 1
                ends = fruitless >= self._patience() or (count is not None and len(self._seen) >= count)
                if not ends:
                    coming = tasks.start(self._api.page(self._address(shape)))
                if new:
                    yield new
                if ends:
                    return

    def _address(self, shape: Mapping[str, str]) -> str:
        length, number = prefixes_for(self._share)
        draw = {"prefix_length": str(length), "num_prefixes": str(number)}
        return self._api.address("images/random/", {**self._filters, **shape, **draw})

    def _adapt(self, found: int) -> None:
        """Draw wider after a page far from full, narrower after one that was cut."""
        if found >= self._page_size:
            self._share /= 2
        elif found < self._page_size / 4:
            self._share = min(1.0, self._share * (2 if found else 8))

    def _patience(self) -> float:
        """Fruitless draws to put up with: after these an image not seen yet would have come with 99%."""
        least, most = _FRUITLESS
        return min(most, max(least, 5 / self._share))

    def _new(self, entries: list[AnyEntry]) -> list[tuple[int, AnyEntry]]:
        keyed = {key_of(entry.id): entry for entry in entries if entry.id}
        new = [(key, entry) for key, entry in keyed.items() if key not in self._seen]
        self._seen.update(keyed)
        self._generator.shuffle(new)
        return new
