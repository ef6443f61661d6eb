"""Splits a batch between two decoders: images whose channels or bit depth the first cannot keep go to the second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decoders.aligned_memory import empty_aligned
from datago_gpu.decoders.decoder import DecodedImages, Decoder, EncodedImages
from datago_gpu.decoders.device import on_host
from datago_gpu.decoders.placement import Placer
from datago_gpu.errors import Rejected

__all__ = ["SplitDecoder"]


@dataclass(slots=True)
class _Job:
    first: list[int]
    """Indices of the images that went to the first decoder."""
    second: list[int]
    """Indices of the images that went to the second decoder. Images in neither list have failed."""
    failures: dict[int, str]


class SplitDecoder:
    """A `Decoder` that gives each image to one of two others.

    is_first: returns whether the first decoder gets a payload, else the second does. May raise Rejected.
    make_second: makes the second decoder. Called when its first payload arrives.
    placer: copies the arrays of the second decoder to the device.
    """

    def __init__(
        self,
        first: Decoder,
        make_second: Callable[[], Decoder],
        placer: Placer,
        is_first: Callable[[NDArray[np.uint8]], bool],
    ) -> None:
        self.depth = first.depth
        self._first, self._make_second, self._placer, self._is_first = first, make_second, placer, is_first
        self._second: Decoder | None = None
        self._under_way: deque[_Job] = deque()

    def submit(self, images: EncodedImages) -> None:
        job = _Job([], [], {})
        for index, payload in enumerate(images.payloads):
            try:
                (job.first if self._is_first(payload) else job.second).append(index)
            except Rejected as problem:
                job.failures[index] = str(problem)
        if job.first:
            self._first.submit(images.subset(job.first))
        if job.second:
            self._second = self._second or self._make_second()
            self._second.submit(images.subset(job.second))
        self._under_way.append(job)

    def collect(self) -> DecodedImages:
        if not self._under_way:
            raise RuntimeError("no batch is under way: submit one first")
        job = self._under_way.popleft()
        pieces: list[tuple[Any, list[int]]] = []
        rescued: dict[int, str] = {}
        for decoder, rows in ((self._first, job.first), (self._second, job.second)):
            if rows and decoder:
                decoded = decoder.collect()
                job.failures |= {rows[at]: problem for at, problem in decoded.failures.items()}
                rescued |= {rows[at]: problem for at, problem in decoded.rescued.items()}
                good = [row for at, row in enumerate(rows) if at not in decoded.failures]
                if decoded.image is not None:
                    pieces.append((decoded.image, good))
        image = self._join(pieces) if job.second else pieces[0][0] if pieces else None
        return DecodedImages(image, dict(sorted(job.failures.items())), rescued)

    def close(self) -> None:
        self._under_way.clear()
        self._first.close()
        if self._second:
            self._second.close()
        self._placer.close()

    def _place(self, image: Any) -> Any:
        """Copies the arrays of a batch, or of a list, to the device."""
        if isinstance(image, list):
            return [self._place(each) for each in image]
        if not isinstance(image, np.ndarray):
            return image
        return self._placer.finish(self._placer.begin([image]))[0]

    def _join(self, pieces: list[tuple[Any, list[int]]]) -> Any:
        """Joins the (images, rows) of both decoders into one array or list, in batch order. None if there are none.

        Arrays are joined on the host: two dtypes in a batch are rare, and on a GPU cupy would have to compile a kernel.
        """
        if len(pieces) < 2:
            return self._place(pieces[0][0]) if pieces else None
        found = {row: each for images, rows in pieces for row, each in zip(rows, images, strict=True)}
        if isinstance(pieces[0][0], list):
            return [self._place(found[row]) for row in sorted(found)]
        arrays = [(on_host(array), rows) for array, rows in pieces]
        dtype = np.result_type(*(array for array, _ in arrays))
        joined = empty_aligned((len(found), *arrays[0][0].shape[1:]), dtype)
        places = {row: place for place, row in enumerate(sorted(found))}
        for array, rows in arrays:
            joined[[places[row] for row in rows]] = array
        return self._place(joined)
