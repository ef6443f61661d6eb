"""The CPU back end: Pillow decodes, and scaling.py crops and scales, on a pool of threads.

This module manages batches and threads. renderer.py decodes one image and writes it into the batch.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.config.limits import decoding_memory
from datago_gpu.decoders.aligned_memory import take_rows
from datago_gpu.decoders.decoder import DecodedImages, EncodedImage, EncodedImages
from datago_gpu.decoders.output_format import OutputFormat, makes_one_array
from datago_gpu.decoders.renderer import Renderer, is_small
from datago_gpu.decoders.threads import Threads, pillow_threads
from datago_gpu.errors import Rejected
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.imaging.labels import widest_dtype
from datago_gpu.units import MiB

__all__ = ["PillowDecoder"]


class PillowDecoder:
    """Decodes on a pool of threads. See `Decoder` for the contract.

    mask: "nearest" or "lanczos" for masks, which have one channel; "" for images.
    own: images and masks keep their own channels and bit depth. Masks that the feeder has decoded to numbers (see
        labels.py) are used as they are.
    memory: the memory limit shared with other decoders.
    """

    def __init__(
        self,
        image: ImageConfig,
        decode: DecodeConfig,
        *,
        mask: str = "",
        own: bool = False,
        memory: Allowance | None = None,
    ) -> None:
        self.depth = decode.prefetch
        self._count = pillow_threads(decode)
        self._memory = memory or Allowance(decoding_memory(decode), self._count)
        self._renderer = Renderer(image, decode, mask, own)
        self._form, self._mask = OutputFormat(image, mask=bool(mask)), mask
        self._is_dense = makes_one_array(image, own=own)
        self._threads = Threads(self._count, "datago_gpu-pillow")
        self._closed = threading.Event()
        self._under_way: deque[_Job] = deque()
        # glibc returns freed blocks above a threshold to the kernel, and raises the threshold to the largest block
        # freed so far, up to 32 MiB. Without this line, images of a megapixel fault in all their pages again and take
        # up to twice the time. The pages of this array are never touched.
        np.empty(31 * MiB, np.uint8)

    def submit(self, images: EncodedImages) -> None:
        if self._closed.is_set():
            raise RuntimeError("the decoder is closed")
        if len(self._under_way) >= self.depth:
            raise RuntimeError(f"{self.depth} batches are under way: collect one first")
        workers = min(self._count, len(images))
        memory = self._memory if self._are_large(images) else None
        batches = [self._batch(view) for view in images.views]
        job = _Job(images, self._renderer, batches, memory, self._closed, workers)
        # One call per thread, not per image: each thread takes the next image by itself, and continues with the next
        # batch while other threads finish the last images of this one.
        self._threads.call(job.work, workers)
        self._under_way.append(job)

    def _are_large(self, images: EncodedImages) -> bool:
        """Returns whether the memory of these images must be counted."""
        pixels = int(images.sizes.astype(np.int64).prod(axis=1).max())
        return not is_small(pixels, self._count, self._memory.capacity)

    def _batch(self, images: EncodedImages) -> NDArray[Any] | None:
        """Allocates one array for all images of a batch, or returns None if they do not go into one array."""
        if not (images.target and self._is_dense):
            return None
        least = widest_dtype(images.payloads) if self._mask else np.uint8
        return self._form.empty(*images.target, len(images), least=least)

    def collect(self) -> DecodedImages:
        if not self._under_way:
            raise RuntimeError("no batch is under way: submit one first")
        return self._under_way.popleft().result()

    def close(self) -> None:
        self._closed.set()
        self._under_way.clear()
        self._threads.close()


class _Job:
    """A batch under way. `workers` threads call `work`; each takes one image after the other.

    batches: for each view, the array for all images, or None. memory: the memory that counts for each image; None if
        none is counted.
    """

    def __init__(
        self,
        images: EncodedImages,
        renderer: Renderer,
        batches: list[NDArray[Any] | None],
        memory: Allowance | None,
        closed: threading.Event,
        workers: int,
    ) -> None:
        self._images, self._renderer, self._batches = images, renderer, batches
        self._memory, self._closed = memory, closed
        self._next = itertools.count()  # next() on it is atomic
        self._left, self._last = itertools.count(1), workers
        self._done = threading.Event()
        self._problem: BaseException | None = None
        self._failures: dict[int, str] = {}
        self._singles: list[list[Any]] = [[] for _ in range(len(images))]
        """For each image its views."""

    def work(self) -> None:
        try:
            for index in self._next:
                if index >= len(self._images) or self._closed.is_set() or self._problem:
                    break
                views = [view.one(index) for view in self._images.views]
                with self._memory.take(self._renderer.bytes_needed(views)) if self._memory else nullcontext():
                    if self._closed.is_set():
                        break
                    self._decode(index, views)
        except BaseException as problem:  # raised by `result`
            self._problem = problem
        if next(self._left) == self._last:
            self._done.set()

    def _decode(self, index: int, views: list[EncodedImage]) -> None:
        try:
            outs = [None if batch is None else batch[index] for batch in self._batches]
            self._singles[index] = self._renderer.render_views(views, outs)
        except Rejected as problem:
            self._failures[index] = str(problem)

    def result(self) -> DecodedImages:
        self._done.wait()
        if self._problem:
            raise self._problem
        failures = dict(sorted(self._failures.items()))
        good = [index for index in range(len(self._images)) if index not in failures]
        if not good:
            return DecodedImages(None, failures)
        image, *further = (self._shown(view, batch, good) for view, batch in enumerate(self._batches))
        return DecodedImages(image, failures, further=further)

    def _shown(self, view: int, batch: NDArray[Any] | None, good: list[int]) -> Any:
        if batch is None:
            return [self._singles[index][view] for index in good]
        return batch if len(good) == len(self._images) else take_rows(batch, good)
