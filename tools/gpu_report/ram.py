"""Encoded batches in memory, and how fast they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decoders.decoder import DecodedImages, Decoder, EncodedImages
from datago_gpu.imaging.geometry import cover_region
from datago_gpu.imaging.header import read_header
from tools.gpu_report.rates import Meter, Rate

__all__ = ["RamBatch", "batches", "decoded", "encoded", "pump", "read", "timed"]

Payload = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RamBatch:
    """A batch for a decoder, and what it weighs."""

    images: EncodedImages
    bytes: int
    pixels: int


def read(folder: Path, pattern: str = "*.jpg") -> list[Payload]:
    """The files below a folder, in the order of their names."""
    return [np.frombuffer(path.read_bytes(), np.uint8) for path in sorted(folder.rglob(pattern))]


def encoded(payloads: list[Payload], target: tuple[int, int] | None) -> EncodedImages:
    """A batch as the feeder sends it: sizes and orientations from the headers, regions that cover the target."""
    files = [payload.tobytes() for payload in payloads]
    headers = [read_header(file) for file in files]
    sizes = [header.upright_size for header in headers]
    regions = [cover_region(*size, target) if target else (0.0, 0.0, *size) for size in sizes]
    return EncodedImages(
        payloads=[
            payload if (tidied := header.tidy(file)) is file else np.frombuffer(tidied, np.uint8)
            for payload, file, header in zip(payloads, files, headers, strict=True)
        ],
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        regions=np.array(regions, np.float32).reshape(-1, 4),
        orientations=np.array([header.orientation for header in headers], np.uint8),
        target=target,
    )


def batches(payloads: list[Payload], size: int, target: tuple[int, int] | None, most: int = 16) -> list[RamBatch]:
    """Up to `most` full batches, going round over the payloads so that each is used before one is used again."""
    made = []
    for number in range(min(most, max(2, -(-len(payloads) // size)))):
        taken = [payloads[(number * size + index) % len(payloads)] for index in range(size)]
        images = encoded(taken, target)
        pixels = int(images.sizes.astype(np.int64).prod(axis=1).sum())
        made.append(RamBatch(images, sum(payload.size for payload in taken), pixels))
    return made


def decoded(decoder: Decoder, images: EncodedImages) -> DecodedImages:
    """One batch, alone."""
    decoder.submit(images)
    return decoder.collect()


def pump(
    decoder: Decoder, todo: Iterable[RamBatch], each: Callable[[RamBatch, DecodedImages], None] = lambda *_: None
) -> None:
    """Keep a decoder full, and give what comes out to `each`."""
    under_way: list[RamBatch] = []
    for batch in todo:
        if len(under_way) == decoder.depth:
            each(under_way.pop(0), decoder.collect())
        decoder.submit(batch.images)
        under_way.append(batch)
    for batch in under_way:
        each(batch, decoder.collect())


def timed(decoder: Decoder, todo: list[RamBatch], seconds: float, warm_up: int = 4) -> Rate:
    """How fast batches pass through a decoder that is kept full, going round over `todo`. Nothing keeps the pixels."""
    meter = Meter(seconds, warm_up)

    def endless() -> Iterator[RamBatch]:
        while True:
            for batch in todo:
                if meter.over:
                    return
                yield batch

    pump(decoder, endless(), lambda batch, _: meter.count(len(batch.images), batch.bytes, batch.pixels))
    return meter.rate()
