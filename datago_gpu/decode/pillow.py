"""The CPU back end: Pillow decodes, and cykooz-resizer crops and scales, on a pool of threads.

This module manages batches and threads. imaging/pixels.py renders one image; output_format.py writes the image into the
batch.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.config.limits import decoding_memory
from datago_gpu.decode.base import DecodedImages, EncodedImages
from datago_gpu.decode.encode import Encoder
from datago_gpu.decode.output_format import Form
from datago_gpu.decode.threads import Threads, pillow_threads
from datago_gpu.errors import Rejected
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.imaging.costs import MOST_A_PIXEL, decoding_bytes
from datago_gpu.imaging.labels import unpack_labels, widest_dtype
from datago_gpu.imaging.own_channels import render_own
from datago_gpu.imaging.pixels import render_array
from datago_gpu.imaging.scaling import shrinkage
from datago_gpu.units import MiB

__all__ = ["PillowDecoder"]

_SMALL_SHARE = 8
"""Small images are not counted against the memory if all threads together need less than 1/8 of it."""


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
        self._work = _Work(image, decode, mask, own, self._memory)
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
        job = _Job(images, self._work, self._closed, workers, counts=self._are_large(images))
        # One call per thread, not per image: each thread takes the next image by itself, and continues with the next
        # batch while other threads finish the last images of this one.
        self._threads.call(job.work, workers)
        self._under_way.append(job)

    def _are_large(self, images: EncodedImages) -> bool:
        """Returns whether the memory of these images must be counted. For a small image counting costs 5 us of 300."""
        pixels = int(images.sizes.astype(np.int64).prod(axis=1).max())
        return pixels * MOST_A_PIXEL * self._count > self._memory.capacity // _SMALL_SHARE

    def collect(self) -> DecodedImages:
        if not self._under_way:
            raise RuntimeError("no batch is under way: submit one first")
        return self._under_way.popleft().result()

    def close(self) -> None:
        self._closed.set()
        self._under_way.clear()
        self._threads.close()


class _Work:
    """Decodes single images as the settings say. Safe on many threads at once."""

    def __init__(self, image: ImageConfig, decode: DecodeConfig, mask: str, own: bool, memory: Allowance) -> None:
        self._decode, self._mask, self._own, self._memory = decode, mask, own, memory
        self._form = Form(image, mask=bool(mask))
        self._encoder = Encoder(image, mask=bool(mask)) if image.pre_encode_images else None
        self._dense = not (own or image.mixed_buckets or self._encoder)

    def batch(self, images: EncodedImages) -> NDArray[Any] | None:
        """Allocates one array for all images of a batch, or returns None if they do not go into one array."""
        if not (images.target and self._dense):
            return None
        least = widest_dtype(images.payloads) if self._mask else np.uint8
        return self._form.empty(*images.target, len(images), least=least)

    def room(self, images: EncodedImages, index: int) -> AbstractContextManager[None]:
        """Returns a context manager that holds the memory needed to decode one image."""
        payload, (height, width) = images.payloads[index].data, images.sizes[index].tolist()
        target = images.target_of(index)
        draft = target is not None and self._decode.draft and not self._mask
        divisor = shrinkage(images.regions[index].tolist(), target) if target and draft else 1
        needed = decoding_bytes(payload, height, width, divisor=divisor, whole=target is None, own=self._own)
        return self._memory.take(needed)

    def __call__(self, images: EncodedImages, index: int, out: NDArray[Any] | None) -> NDArray[Any] | bytes:
        """Decodes one image, into `out` or into new memory. Raises Rejected."""
        region = images.regions[index].tolist()
        orientation, target = int(images.orientations[index]), images.target_of(index)
        payload, max_pixels = images.payloads[index].data, self._decode.max_pixels
        draft = self._decode.draft and not self._mask
        pixels: NDArray[Any]
        labels = unpack_labels(images.payloads[index], *images.sizes[index]) if self._mask else None
        if labels is not None:
            pixels = labels
        elif self._own:
            pixels = render_own(payload, region, orientation, target, draft=draft, max_pixels=max_pixels)
        else:
            pixels = render_array(
                payload, region, orientation, target, draft=draft, max_pixels=max_pixels, mask=self._mask
            )
        if self._encoder:
            return self._encoder(pixels)
        if self._own:
            return pixels
        out = self._form.empty(*pixels.shape[:2], least=pixels.dtype) if out is None else out
        self._form.write(pixels, out)
        return out


class _Job:
    """A batch under way. `workers` threads call `work`; each takes one image after the other.

    counts: whether the memory of each image is counted.
    """

    def __init__(
        self, images: EncodedImages, work: _Work, closed: threading.Event, workers: int, *, counts: bool
    ) -> None:
        self._images, self._work, self._closed, self._counts = images, work, closed, counts
        self._next = itertools.count()  # next() on it is atomic
        self._left, self._last = itertools.count(1), workers
        self._done = threading.Event()
        self._problem: BaseException | None = None
        self._failures: dict[int, str] = {}
        self._batch = work.batch(images)
        self._singles: list[NDArray[Any] | bytes | None] = [None] * len(images)

    def work(self) -> None:
        try:
            for index in self._next:
                if index >= len(self._images) or self._closed.is_set() or self._problem:
                    break
                with self._work.room(self._images, index) if self._counts else nullcontext():
                    if self._closed.is_set():
                        break
                    self._decode(index)
        except BaseException as problem:  # raised by `result`
            self._problem = problem
        if next(self._left) == self._last:
            self._done.set()

    def _decode(self, index: int) -> None:
        try:
            out = None if self._batch is None else self._batch[index]
            self._singles[index] = self._work(self._images, index, out)
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
        if self._batch is None:
            return DecodedImages([self._singles[index] for index in good], failures)
        return DecodedImages(self._batch[good] if failures else self._batch, failures)
