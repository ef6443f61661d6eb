"""The loader's DALI graph with nothing around it: DALI's own feeding and prefetching. The limit to measure against.

Written apart from datago_gpu/decoders/dali.py on purpose; tests/gpu holds the two to the same pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from datago_gpu.decoders.decoder import EncodedImages

__all__ = ["bare_pipeline", "decode_all", "on_host"]

Feed = tuple[Any, ...]


def bare_pipeline(
    source: Iterable[EncodedImages],
    *,
    device_id: int | None,
    batch_size: int,
    crop: bool = True,
    threads: int | None = None,
    prefetch: int = 2,
    hw_decoder_load: float | None = None,
    fancy: bool = True,
) -> Pipeline:
    """A pipeline that takes its batches from `source`; `run()` it once a batch.

    hw_decoder_load: None leaves DALI's default. fancy: fancy upsampling; both mean nothing on the CPU.
    """
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=threads or len(os.sched_getaffinity(0)),
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        exec_dynamic=True,
    )
    options: dict[str, Any] = {} if device_id is None else {"affine": False, "jpeg_fancy_upsampling": fancy}
    if device_id is not None and hw_decoder_load is not None:
        options["hw_decoder_load"] = hw_decoder_load
    kinds = [types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT] if crop else [types.UINT8]
    with pipeline:
        payloads, *region = fn.external_source(
            source=_feeds(source, crop), num_outputs=len(kinds), dtype=kinds, ndim=1, no_copy=True
        )
        device = "cpu" if device_id is None else "mixed"
        pixels = fn.decoders.image(payloads, device=device, output_type=types.RGB, **options)
        if crop:
            starts, ends, target = region
            pixels = fn.resize(
                pixels,
                size=target,
                roi_start=starts,
                roi_end=ends,
                roi_relative=False,
                interp_type=types.INTERP_LANCZOS3,
                antialias=True,
            )
        pipeline.set_outputs(pixels)
    pipeline.build()
    return pipeline


def _feeds(source: Iterable[EncodedImages], crop: bool) -> Iterator[Feed]:
    for images in source:
        if not crop:
            yield (images.payloads,)
            continue
        starts = np.ascontiguousarray(images.regions[:, :2])
        ends = np.minimum(starts + images.regions[:, 2:], images.sizes, dtype=np.float32)
        yield images.payloads, starts, ends, np.full((len(images), 2), images.target, np.float32)


def on_host(output: Any) -> list[NDArray[np.uint8]]:
    """The images of an output, copied to the host where they are not there."""
    output = output.as_cpu() if hasattr(output, "as_cpu") else output
    return [np.array(output.at(index)) for index in range(len(output))]


def decode_all(batches: list[EncodedImages], **options: Any) -> list[NDArray[np.uint8]]:
    """All images of some batches, on the host. options: of `bare_pipeline`."""
    pipeline = bare_pipeline(batches, batch_size=max(map(len, batches)), prefetch=1, **options)
    return [image for _ in batches for image in on_host(pipeline.run()[0])]
