"""Images that keep their channels, on a back end that knows RGB with 8 bits only: it gets those, Pillow the others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from datago_gpu.decode.base import DecodedImages, Decoder, EncodedImages
from datago_gpu.decode.formats import Undecodable
from datago_gpu.decode.native import is_rgb8
from datago_gpu.decode.place import Placer

__all__ = ["SplitDecoder"]


@dataclass(slots=True)
class _Job:
    rgb: list[int]
    """Which images of the batch went to the one decoder."""
    others: list[int]
    """Which ones to the other. What is nowhere has failed."""
    failures: dict[int, str]


class SplitDecoder:
    """See `Decoder`. `rgb` decodes images that are RGB with 8 bits, `others` the rest, whose arrays `placer` brings to
    the device. Both give lists, of arrays or of bytes; `DecodedImages.image` is one too.
    """

    def __init__(self, rgb: Decoder, others: Decoder, placer: Placer, max_pixels: int) -> None:
        self.depth = min(rgb.depth, others.depth)
        self._rgb, self._others, self._placer, self._max_pixels = rgb, others, placer, max_pixels
        self._under_way: deque[_Job] = deque()

    def submit(self, images: EncodedImages) -> None:
        job = _Job([], [], {})
        for index, payload in enumerate(images.payloads):
            try:
                (job.rgb if is_rgb8(payload.data, self._max_pixels) else job.others).append(index)
            except Undecodable as problem:
                job.failures[index] = str(problem)
        for decoder, rows in ((self._rgb, job.rgb), (self._others, job.others)):
            if rows:
                decoder.submit(images.subset(rows))
        self._under_way.append(job)

    def collect(self) -> DecodedImages:
        if not self._under_way:
            raise RuntimeError("no batch is under way: submit one first")
        job = self._under_way.popleft()
        found: dict[int, Any] = {}
        for decoder, rows in ((self._rgb, job.rgb), (self._others, job.others)):
            if rows:
                decoded = decoder.collect()
                job.failures |= {rows[at]: problem for at, problem in decoded.failures.items()}
                good = [row for at, row in enumerate(rows) if at not in decoded.failures]
                found |= dict(zip(good, [] if decoded.image is None else decoded.image, strict=True))
        placed = [self._placed(found[row]) for row in sorted(found)]
        return DecodedImages(placed or None, dict(sorted(job.failures.items())))

    def close(self) -> None:
        self._under_way.clear()
        self._rgb.close()
        self._others.close()
        self._placer.close()

    def _placed(self, image: Any) -> Any:
        if not isinstance(image, np.ndarray):
            return image
        return self._placer.finish(self._placer.begin([image]))[0]
