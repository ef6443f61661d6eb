"""datago_gpu with the Pillow back end, or another of `options["backend"]`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from harness import Spec, cpu_s, main


def load(spec: Spec, source_type: str, source: dict[str, Any]) -> Iterator[Any]:
    """Batches, then where the time went."""
    from datago_gpu import Loader

    config = {
        "source_type": source_type,
        "source_config": source,
        "batch_size": spec.batch,
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": spec.size,
            "downsampling_ratio": spec.size,
            "min_aspect_ratio": 1.0,
            "max_aspect_ratio": 1.0,
        },
        "http_config": {"concurrent_downloads": spec.concurrent},
        "decode_config": {"threads": spec.threads or None, "draft": spec.options.get("draft", True)},
    }
    with Loader(config, device="cpu", backend=spec.options.get("backend", "pillow")) as loader:
        costs = Costs(loader)
        for batch in loader:
            costs.note()
            if spec.mask:
                assert len(batch.masks[spec.mask]) == len(batch)
            yield batch.image
        stats = loader.stats()
    if spec.kind != "million":
        yield {
            "stages": stats.as_dict()["stages"],
            "slowest": stats.slowest,
            "bytes": stats.bytes,
            "costs_us": costs.a_sample(),
        }


class Costs:
    """CPU time of each part between the first batch and the last one that the feeder lived to see."""

    def __init__(self, loader: Any) -> None:
        self._loader, self._pid = loader, loader.feeder_pid
        self._seen: list[tuple[int, dict[str, float]]] = []

    def note(self) -> None:
        feeder = cpu_s(self._pid)
        if not feeder:
            return
        packed = next((stage.items for stage in self._loader.stats().stages if stage.name == "pack"), 0)
        clocks = {"feeder": feeder, "process": time.process_time(), "trainer": time.thread_time()}
        for thread in threading.enumerate():
            if thread.name.startswith("datago-decode") and thread.ident:
                clocks["hand-over"] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        if not self._seen or packed > self._seen[-1][0]:
            self._seen.append((packed, clocks))

    def a_sample(self) -> dict[str, float]:
        """Microseconds: of the feeder, of the thread that takes and hands over, of the pixels (all other threads)."""
        if len(self._seen) < 2:
            return {}
        (before, first), (after, last) = self._seen[0], self._seen[-1]
        spent = {name: (last[name] - first[name]) / (after - before) * 1e6 for name in first if name in last}
        spent["pixels"] = spent.pop("process") - spent.get("hand-over", 0.0) - spent.pop("trainer")
        return {name: round(value, 1) for name, value in spent.items()}


def files(spec: Spec) -> Iterator[Any]:
    return load(spec, "file", {"root_path": spec.root, **spec.options.get("source", {})})


def shards(spec: Spec) -> Iterator[Any]:
    return load(spec, "webdataset", {"url": "::".join(spec.urls), **spec.options.get("source", {})})


def dataroom(spec: Spec) -> Iterator[Any]:
    source = {"api_url": spec.api_url, "api_key": spec.api_key}
    return load(spec, "db", {**source, "has_masks": spec.mask} if spec.mask else source)


if __name__ == "__main__":
    os.environ.pop("RANK", None)
    os.environ.pop("WORLD_SIZE", None)
    main(
        {"datago_gpu": "datago-gpu", "PIL": "pillow"},
        {"files": files, "shards": shards, "dataroom": dataroom, "million": files},
    )
