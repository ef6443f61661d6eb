"""Decodes batches of large images in portions, because DALI holds the pixels of all images of a batch at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from datago_gpu.decode.base import DecodedImages, Decoder, EncodedImages
from datago_gpu.decode.placement import Placer

__all__ = ["PortionedDecoder"]

_DECODED = 3
"""Bytes per pixel of a decoded image in DALI."""
_DECODING = 9
"""Additional bytes per pixel that each DALI thread uses. Measured for PNG, WebP and JPEG (also progressive)."""


class PortionedDecoder:
    """A `Decoder` that passes each batch to `inner` in portions that need at most `memory` bytes to decode.

    An image that needs more is a portion of its own. threads: the number of threads of `inner`. make_placer: is called
    when arrays must be joined for the first time.
    """

    def __init__(self, inner: Decoder, memory: int, threads: int, make_placer: Callable[[], Placer]) -> None:
        self.depth = inner.depth
        self._inner, self._memory, self._threads, self._make_placer = inner, memory, threads, make_placer
        self._placer: Placer | None = None
        self._jobs: deque[_Job] = deque()
        self._waiting: deque[_Portion] = deque()
        self._under_way: deque[_Portion] = deque()

    def submit(self, images: EncodedImages) -> None:
        if len(self._jobs) >= self.depth:
            raise RuntimeError(f"{self.depth} batches are under way: collect one first")
        job = _Job()
        for begin, end, cost in self._split(images):
            whole = end - begin == len(images)
            job.portions += 1
            part = images if whole else images.subset(list(range(begin, end)))
            self._waiting.append(_Portion(job, part, begin, cost))
        self._jobs.append(job)
        self._start()

    def collect(self) -> DecodedImages:
        if not self._jobs:
            raise RuntimeError("no batch is under way: submit one first")
        job = self._jobs.popleft()
        while job.portions:
            self._start()
            decoded = self._inner.collect()
            portion = self._under_way.popleft()
            portion.job.add(portion.begin, decoded)
        self._start()
        return job.decoded(self._join)

    def close(self) -> None:
        self._jobs.clear()
        self._waiting.clear()
        self._under_way.clear()
        self._inner.close()
        if self._placer is not None:
            self._placer.close()

    def _join(self, arrays: list[Any]) -> Any:
        self._placer = self._placer or self._make_placer()
        return self._placer.concatenate(arrays)

    def _start(self) -> None:
        """Submits as many portions to the inner decoder as fit into memory, and always at least one."""
        while self._waiting and len(self._under_way) < self._inner.depth:
            held = sum(portion.cost for portion in self._under_way)
            if held and held + self._waiting[0].cost > self._memory:
                return
            portion = self._waiting.popleft()
            self._inner.submit(portion.images)
            self._under_way.append(portion)

    def _split(self, images: EncodedImages) -> list[tuple[int, int, int]]:
        """Splits a batch into portions: (first image, end, bytes needed)."""
        most = self._cost(len(images) * images.largest, images.largest, len(images))
        if 0 < most <= self._memory // self.depth:  # neither this batch nor others have to wait: nearly every batch
            return [(0, len(images), most)]
        pixels: list[int] = [height * width for height, width in images.sizes.tolist()]
        whole = self._cost(sum(pixels), max(pixels), len(pixels))
        if whole <= self._memory:
            return [(0, len(pixels), whole)]
        portions, begin = [], 0
        while begin < len(pixels):
            end, total, largest, cost = begin, 0, 0, 0
            while end < len(pixels):
                total, largest = total + pixels[end], max(largest, pixels[end])
                further = self._cost(total, largest, end + 1 - begin)
                if end > begin and further > self._memory:
                    break
                end, cost = end + 1, further
            portions.append((begin, end, cost))
            begin = end
        return portions

    def _cost(self, pixels: int, largest: int, count: int) -> int:
        """Returns the bytes that DALI needs for `count` images with `pixels` in total and `largest` in the largest."""
        return _DECODED * pixels + _DECODING * largest * min(count, self._threads)


class _Job:
    """A batch under way. portions: how many of its portions are not decoded yet."""

    def __init__(self) -> None:
        self.portions = 0
        self._found: list[DecodedImages] = []
        self._failures: dict[int, str] = {}
        self._rescued: dict[int, str] = {}

    def add(self, begin: int, decoded: DecodedImages) -> None:
        self.portions -= 1
        self._found.append(decoded)
        self._failures |= {begin + index: problem for index, problem in decoded.failures.items()}
        self._rescued |= {begin + index: problem for index, problem in decoded.rescued.items()}

    def decoded(self, join: Callable[[list[Any]], Any]) -> DecodedImages:
        if len(self._found) == 1:
            return self._found[0]
        good = [each.image for each in self._found if each.image is not None]
        image: Any = None
        if good and isinstance(good[0], list):
            image = [each for images in good for each in images]
        elif good:
            image = good[0] if len(good) == 1 else join(good)
        return DecodedImages(image, self._failures, self._rescued)


class _Portion:
    """Consecutive images of a batch, starting at index `begin`. cost: bytes needed to decode them."""

    __slots__ = ("begin", "cost", "images", "job")

    def __init__(self, job: _Job, images: EncodedImages, begin: int, cost: int) -> None:
        self.job, self.images, self.begin, self.cost = job, images, begin, cost
