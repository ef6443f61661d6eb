"""Decodes batches of large images in portions, because DALI holds the pixels of all images of a batch at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from datago_gpu.decoders.decoder import DecodedImages, Decoder, EncodedImages
from datago_gpu.decoders.placement import Placer

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
        self._batches: deque[list[_Portion]] = deque()
        self._waiting: deque[_Portion] = deque()
        self._under_way: deque[_Portion] = deque()

    def submit(self, images: EncodedImages) -> None:
        if len(self._batches) >= self.depth:
            raise RuntimeError(f"{self.depth} batches are under way: collect one first")
        portions = self._split(images)
        self._batches.append(portions)
        self._waiting += portions
        self._start()

    def collect(self) -> DecodedImages:
        if not self._batches:
            raise RuntimeError("no batch is under way: submit one first")
        portions = self._batches.popleft()
        while portions[-1].decoded is None:
            self._start()
            self._under_way.popleft().decoded = self._inner.collect()
        self._start()
        whole = portions[0].decoded if len(portions) == 1 else None
        return whole or self._merge(portions)

    def close(self) -> None:
        self._batches.clear()
        self._waiting.clear()
        self._under_way.clear()
        self._inner.close()
        if self._placer is not None:
            self._placer.close()

    def _merge(self, portions: list[_Portion]) -> DecodedImages:
        """Returns the images of all portions of a batch as one."""
        found = [(portion.begin, portion.decoded) for portion in portions if portion.decoded is not None]
        failures = {begin + at: problem for begin, each in found for at, problem in each.failures.items()}
        rescued = {begin + at: problem for begin, each in found for at, problem in each.rescued.items()}
        good = [[each.image, *each.further] for _, each in found if each.image is not None]
        image, *further = [self._join(list(view)) for view in zip(*good, strict=True)] or [None]
        return DecodedImages(image, failures, rescued, further)

    def _join(self, pieces: list[Any]) -> Any:
        """Returns the images of one view. pieces: of each portion that has any."""
        if isinstance(pieces[0], list):
            return [each for images in pieces for each in images]
        if len(pieces) == 1:
            return pieces[0]
        self._placer = self._placer or self._make_placer()
        return self._placer.concatenate(pieces)

    def _start(self) -> None:
        """Submits as many portions to the inner decoder as fit into memory, and always at least one."""
        while self._waiting and len(self._under_way) < self._inner.depth:
            held = sum(portion.cost for portion in self._under_way)
            if held and held + self._waiting[0].cost > self._memory:
                return
            portion = self._waiting.popleft()
            self._inner.submit(portion.images)
            self._under_way.append(portion)

    def _split(self, images: EncodedImages) -> list[_Portion]:
        most = self._cost(len(images) * images.largest, images.largest, len(images))
        if 0 < most <= self._memory // self.depth:  # neither this batch nor others have to wait: nearly every batch
            return [_Portion(images, 0, most)]
        pixels: list[int] = [height * width for height, width in images.sizes.tolist()]
        whole = self._cost(sum(pixels), max(pixels), len(pixels))
        if whole <= self._memory:
            return [_Portion(images, 0, whole)]
        portions, begin = [], 0
        while begin < len(pixels):
            end, total, largest, cost = begin, 0, 0, 0
            while end < len(pixels):
                total, largest = total + pixels[end], max(largest, pixels[end])
                further = self._cost(total, largest, end + 1 - begin)
                if end > begin and further > self._memory:
                    break
                end, cost = end + 1, further
            portions.append(_Portion(images.subset(list(range(begin, end))), begin, cost))
            begin = end
        return portions

    def _cost(self, pixels: int, largest: int, count: int) -> int:
        """Returns the bytes that DALI needs for `count` images with `pixels` in total and `largest` in the largest."""
        return _DECODED * pixels + _DECODING * largest * min(count, self._threads)


class _Portion:
    """Consecutive images of a batch, starting at index `begin`. cost: bytes needed to decode them."""

    __slots__ = ("begin", "cost", "decoded", "images")

    def __init__(self, images: EncodedImages, begin: int, cost: int) -> None:
        self.images, self.begin, self.cost = images, begin, cost
        self.decoded: DecodedImages | None = None
