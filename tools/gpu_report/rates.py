"""How fast something passes: the first batches are left out, and it ends when the time is up."""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = ["Meter", "Rate"]


@dataclass(frozen=True, slots=True)
class Rate:
    """What has passed in `seconds`."""

    images: int
    bytes: int
    pixels: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        seconds = self.seconds or float("nan")
        mb, mp = self.bytes / 1e6 / seconds, self.pixels / 1e6 / seconds
        return f"{self.images_per_s:,.0f} images/s, {mb:,.1f} MB/s, {mp:,.1f} MP/s"


class Meter:
    """Tell it of each batch that has come out; it says when that is enough.

    seconds: for how long to count. warm_up: batches to let pass before. A batch that is delivered is complete, so
    nothing has to be waited for before the clock is read.
    """

    def __init__(self, seconds: float, warm_up: int = 4) -> None:
        self._seconds, self._warm_up = seconds, warm_up
        self._began = self._last = 0.0
        self._images = self._bytes = self._pixels = 0
        self.over = False

    def count(self, images: int, byte_count: int = 0, pixels: int = 0) -> None:
        now = time.perf_counter()
        if self._warm_up > 0:
            self._warm_up -= 1
            self._began = now
        elif not self.over:
            self._images += images
            self._bytes += byte_count
            self._pixels += pixels
            self._last = now
        self.over = bool(self._images) and now - self._began >= self._seconds

    def rate(self) -> Rate:
        return Rate(self._images, self._bytes, self._pixels, self._last - self._began if self._images else 0.0)
