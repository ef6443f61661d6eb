"""The Pillow back end in decode processes. See `Decoder` for the contract."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.aligned_memory import copy_aligned, take_rows
from datago_gpu.decoders.decoder import DecodedImages, EncodedImages
from datago_gpu.decoders.output_format import OutputFormat, kind_of, makes_one_array
from datago_gpu.feeder.decoding.jobs import Job, Jobs
from datago_gpu.feeder.decoding.memory_plan import ENCODED_FACTOR, ENCODED_HEAD
from datago_gpu.imaging.labels import widest_dtype
from datago_gpu.units import ALIGNMENT

__all__ = ["ProcessDecoder"]

_WIDEST_OWN = 8
"""Bytes of a pixel of four channels of 16 bits."""
_WIDEST_MASK = 4
"""Bytes of a label."""


@dataclass(slots=True)
class _UnderWay:
    count: int
    shapes: list[tuple[int, ...]]
    """Of the array of each view; empty if the images are results of their own."""
    dtype: np.dtype[Any] | None
    """Of these arrays."""
    start: Callable[[], None] | None = None
    """Starts the job, if it waits for a free slot."""
    job: Job = field(init=False)
    """Once it has started."""


class ProcessDecoder:
    """Decodes images or masks in the decode processes. The pixels that it returns lie in the memory shared with them.

    A batch that finds no room on the shelf, since the trainer keeps many others, is copied.
    """

    def __init__(self, jobs: Jobs, image: ImageConfig, decode: DecodeConfig, *, mask: bool) -> None:
        self.depth = decode.prefetch
        self._jobs, self._mask = jobs, mask
        self._form = OutputFormat(image, mask=mask)
        own = kind_of(image, mask=mask)[1]
        self._encodes = image.pre_encode_images
        self._is_dense = makes_one_array(image, own=own)
        channels, _, _ = self._form.shape(1, 1) if self._form.channels_first else reversed(self._form.shape(1, 1))
        self._pixel_bytes = _WIDEST_OWN if own else _WIDEST_MASK if mask else channels * self._form.dtype.itemsize
        self._under_way: deque[_UnderWay] = deque()

    def submit(self, images: EncodedImages) -> None:
        if len(self._under_way) >= self.depth:
            raise RuntimeError(f"{self.depth} batches are under way: collect one first")
        shapes: list[tuple[int, ...]] = []
        dtype: np.dtype[Any] | None = None
        if images.target and self._is_dense:
            least = widest_dtype(images.payloads) if self._mask else np.uint8
            dtype = np.result_type(self._form.dtype, least)
            shapes = [(len(images), *self._form.shape(*view.target)) for view in images.views if view.target]
            rooms = [np.full(len(images), int(np.prod(shape[1:])) * dtype.itemsize) for shape in shapes]
        else:
            rooms = [self._rooms(images)]
        under_way = _UnderWay(len(images), shapes, dtype)
        under_way.start = partial(self._start, under_way, images, rooms)
        self._under_way.append(under_way)
        self._jobs.begin(under_way.start)

    def _start(self, under_way: _UnderWay, images: EncodedImages, rooms: list[NDArray[np.int64]]) -> None:
        dtype, lends = under_way.dtype, not self._encodes
        under_way.job = self._jobs.start(images, rooms, mask=self._mask, dtype=dtype, lends=lends)
        under_way.start = None

    def collect(self) -> DecodedImages:
        if not self._under_way:
            raise RuntimeError("no batch is under way: submit one first")
        oldest = self._under_way[0]
        failures = self._jobs.wait(oldest.job)  # it has started: jobs start in the order in which they are collected
        self._under_way.popleft()
        good = [row for row in range(oldest.count) if row not in failures] if failures else list(range(oldest.count))
        image, *further = self._result(oldest, good) if good else [None]
        self._jobs.end(oldest.job, returns=image is None or self._encodes)
        self._jobs.begin_waiting()
        return DecodedImages(image, failures, further=further)

    def close(self) -> None:
        while self._under_way:
            under_way = self._under_way.popleft()
            if under_way.start:
                self._jobs.drop(under_way.start)
            else:
                self._jobs.end(under_way.job, returns=True)

    def _rooms(self, images: EncodedImages) -> NDArray[np.int64]:
        """Returns the bytes that the result of each image takes at the most, if each is a result of its own."""
        target = images.targets if images.targets is not None else images.target
        sizes = images.sizes if target is None else np.broadcast_to(np.asarray(target), (len(images), 2))
        rooms: NDArray[np.int64] = sizes.astype(np.int64).prod(axis=1) * self._pixel_bytes
        if self._encodes:
            rooms = rooms * ENCODED_FACTOR + ENCODED_HEAD
        return -(-rooms // ALIGNMENT) * ALIGNMENT

    def _result(self, done: _UnderWay, good: list[int]) -> list[Any]:
        """Returns for each view the pixels of the images that are good."""
        if self._encodes:
            return [self._encoded(done, good)]
        pixels = self._pixels(done)
        if done.dtype:
            return [self._array(done, pixels, view, good) for view in range(len(done.shapes))]
        rows = self._jobs.rows(done.job, done.count)
        starts, sizes = (rows["out_at"] - done.job.at).tolist(), rows["written"].tolist()
        shapes, dtypes = rows["shape"].tolist(), rows["dtype"].tolist()
        single = [
            pixels[starts[row] : starts[row] + sizes[row]].view(dtypes[row].decode()).reshape(shapes[row])
            for row in good
        ]
        return [single]

    def _encoded(self, done: _UnderWay, good: list[int]) -> list[bytes]:
        rows = self._jobs.rows(done.job, done.count)
        places = zip(rows["out_at"].tolist(), rows["written"].tolist(), strict=True)
        encoded = [self._jobs.memory[at : at + size] for at, size in places]
        return encoded if len(good) == done.count else [encoded[row] for row in good]

    @staticmethod
    def _array(done: _UnderWay, pixels: NDArray[np.uint8], view: int, good: list[int]) -> NDArray[Any]:
        """Returns the array of a view. pixels: the bytes of the job."""
        shape, start = done.shapes[view], done.job.starts[view] - done.job.at
        assert done.dtype is not None
        batch = pixels[start : start + int(np.prod(shape)) * done.dtype.itemsize].view(done.dtype).reshape(shape)
        return batch if len(good) == done.count else take_rows(batch, good)

    def _pixels(self, done: _UnderWay) -> NDArray[np.uint8]:
        """Returns the bytes of a job: the shared memory itself, or a copy."""
        if done.job.part:
            return done.job.part.array()
        rows = self._jobs.rows(done.job, done.count, done.job.views - 1)
        size = int(rows["out_at"][-1] + rows["room"][-1]) - done.job.at
        return copy_aligned(np.frombuffer(self._jobs.memory, np.uint8, size, done.job.at))
