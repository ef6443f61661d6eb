"""Whole loaders: over the photographs as local files, and over HTTP from a server in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmarks.suite.servers import dataroom
from datago_gpu import Loader
from tools.gpu_report.context import Context
from tools.gpu_report.rates import Meter, Rate

__all__ = ["drain", "over_files", "over_http"]


def over_files(context: Context, size: str, *, batch_size: int, **more: Any) -> Loader:
    """A loader without end over the photographs of a size."""
    source = {"root_path": str(context.material / size), "rank": 0, "world_size": 1}
    return Loader(_config(context, size, batch_size, "file", source, **more), context.device, "dali")


@contextlib.contextmanager
def over_http(context: Context, size: str, *, batch_size: int, **more: Any) -> Iterator[Loader]:
    """The same from HTTP on loopback."""
    with dataroom(context.material / size) as address:
        source = {**address, "rank": 0, "world_size": 1}
        with Loader(_config(context, size, batch_size, "db", source, **more), context.device, "dali") as loader:
            yield loader


def drain(loader: Loader, seconds: float, warm_up: int = 4) -> Rate:
    """How fast batches come while nothing is done with them. Leaves the loader open."""
    meter, seen = Meter(seconds, warm_up), 0
    while not meter.over:
        batch = next(loader)
        total = loader.stats().bytes
        pixels = int(batch.original_sizes.astype("int64").prod(axis=1).sum())
        meter.count(len(batch), total - seen, pixels)
        seen = total
    return meter.rate()


def _config(context: Context, size: str, batch_size: int, kind: str, source: dict[str, Any], **more: Any) -> Any:
    """One bucket, so that all batches are full, and the work is that of the bare pipeline."""
    side = context.target(size)[0]
    image = {
        "crop_and_resize": True,
        "default_image_size": side,
        "downsampling_ratio": 32,
        "min_aspect_ratio": 1.0,
        "max_aspect_ratio": 1.0,
    }
    return {
        "source_type": kind,
        "source_config": source,
        "image_config": image,
        "decode_config": ({"threads": 2} if context.small else {}) | more.pop("decode", {}),
        "batch_size": batch_size,
        "epochs": None,
        "drop_last": True,
        "samples_buffer_size": 2 * batch_size,
        "prefetch_buffer_size": 4 * batch_size,
        **more,
    }
