"""Requests the server's own random pages again and again, without repeating images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncGenerator, Mapping

from datago_gpu.sources.dataroom.api import DataroomApi
from datago_gpu.sources.dataroom.listing import Tasks
from datago_gpu.sources.dataroom.pages import AnyEntry
from datago_gpu.sources.shuffle import SplitMix64

__all__ = ["RandomPages", "key_of", "prefixes_for"]

_MAX_PREFIXES = 300
_LONGEST_PREFIX = 12
"""Longer prefixes are allowed, but would distinguish more images than exist."""
_NEARLY_ALL = 0.999
_FILL = 0.75
"""Fraction of a page that a draw should fill: beyond a full page, images are cut off, and not evenly."""
_FRUITLESS = (10, 1000)
"""The least and greatest number of consecutive draws without a new image after which the source is exhausted."""


def prefixes_for(share: float) -> tuple[int, int]:
    """Returns prefix_length and num_prefixes that match about this fraction of all images, with many prefixes rather
    than few.

    n random prefixes of l hex digits, some of them equal, match 1 - (1 - 16**-l)**n of the images.
    """
    if share >= _NEARLY_ALL:
        return 1, _MAX_PREFIXES
    wanted = [math.log1p(-share) / math.log1p(-(16.0**-length)) for length in range(1, _LONGEST_PREFIX + 1)]
    length = max((length for length, number in enumerate(wanted, 1) if number <= _MAX_PREFIXES), default=1)
    return length, min(_MAX_PREFIXES, max(1, round(wanted[length - 1])))


def key_of(image_id: str) -> int:
    """Returns a 64-bit number for an image: the same on every rank and machine."""
    return int.from_bytes(hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class RandomPages:
    """Requests random pages until all images were seen, or draws return nothing new.

    The width of a draw depends on the server's count, then on the size of the last pages. An entry without an id is
    left out, since it could not be distinguished from a seen one.
    """

    def __init__(self, api: DataroomApi, filters: Mapping[str, str], *, page_size: int, generator: SplitMix64) -> None:
        self._api, self._filters, self._page_size, self._generator = api, filters, page_size, generator
        self._share = 1e-4  # about what the server's own defaults draw
        self._seen: set[int] = set()

    async def pages(self, shape: Mapping[str, str]) -> AsyncGenerator[list[tuple[int, AnyEntry]], None]:
        """Yields the new entries of each draw, if any, for all ranks, in random order, each with its `key_of`.

        shape: the parameters that select the fields of a page. Raises SourceError.
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
        """Widens the draw after a page far from full, narrows it after a page that was cut."""
        if found >= self._page_size:
            self._share /= 2
        elif found < self._page_size / 4:
            self._share = min(1.0, self._share * (2 if found else 8))

    def _patience(self) -> float:
        """Returns the allowed number of fruitless draws: with 99% probability they would have shown an unseen image."""
        least, most = _FRUITLESS
        return min(most, max(least, 5 / self._share))

    def _new(self, entries: list[AnyEntry]) -> list[tuple[int, AnyEntry]]:
        keyed = {key_of(entry.id): entry for entry in entries if entry.id}
        new = [(key, entry) for key, entry in keyed.items() if key not in self._seen]
        self._seen.update(keyed)
        self._generator.shuffle(new)
        return new
