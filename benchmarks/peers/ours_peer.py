"""datago_gpu with the Pillow back end, or another of `options["backend"]`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from harness import Spec, main


def load(spec: Spec, source_type: str, source: dict[str, Any]) -> Iterator[Any]:
    """Batches, then where the time went."""
    from datago_gpu import Loader

    config = {
        "source_type": source_type,
        "source_config": source,
        "batch_size": spec.batch,
        "limit": spec.count,
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": spec.size,
            "downsampling_ratio": spec.size,
            "min_aspect_ratio": 1.0,
            "max_aspect_ratio": 1.0,
        },
        "http_config": {"concurrent_downloads": spec.concurrent},
        "cache_config": spec.options.get("cache"),
        "decode_config": {"threads": spec.threads or None, "draft": spec.options.get("draft", True)},
    }
    with Loader(config, device="cpu", backend=spec.options.get("backend", "pillow")) as loader:
        clocks = Clocks()
        for batch in loader:
            clocks.note()
            if spec.mask:
                assert len(batch.masks[spec.mask]) == len(batch)
            yield batch.image
        stats = loader.stats()
    if spec.kind != "million":
        yield {
            "stages": stats.as_dict()["stages"],
            "slowest": stats.slowest,
            "bytes": stats.bytes,
            "cpu_s": clocks.all(stats),
        }


def payloads(spec: Spec) -> Iterator[Any]:
    """The feeder alone: what it sends is given back at once, and nothing is decoded. From the first batch on."""
    from datago_gpu import LoaderConfig
    from datago_gpu.feeder.handle import Feeder
    from datago_gpu.feeder.wire import EncodedBatch, Ended, Failed, Resume

    config = {
        "source_config": {"api_url": spec.api_url, "api_key": "k", "page_size": 500, "check_count": False},
        "image_config": {"crop_and_resize": True, "default_image_size": 224},
        "http_config": {"concurrent_downloads": spec.concurrent, **spec.options.get("http", {})},
        "prefetch_buffer_size": spec.options.get("window", 2 * spec.concurrent),
        "limit": spec.count,
    }
    feeder = Feeder(LoaderConfig.load(config), Resume())
    clock, images, size = 0.0, 0, 0
    while not isinstance(message := feeder.receive(), Ended):
        if isinstance(message, Failed):
            raise SystemExit(message.message)
        if isinstance(message, EncodedBatch):
            feeder.report(message.number, 0)
            if clock:
                images, size = images + len(message.ids), size + sum(message.lengths)
            clock = clock or time.perf_counter()
            yield len(message.ids)
    yield {"images": images, "bytes": size, "seconds": time.perf_counter() - clock, "first_s": None}
    feeder.close()
    feeder.dispose()


class Clocks:
    """CPU seconds of each part so far."""

    def __init__(self) -> None:
        self.seconds = {"hand-over": 0.0, "trainer": 0.0}
        self._trainer, self._process = time.thread_time(), time.process_time()

    def note(self) -> None:
        """Before the threads have ended."""
        self.seconds["trainer"] = time.thread_time() - self._trainer
        for thread in threading.enumerate():
            if thread.name == "datago-decode" and thread.ident:
                self.seconds["hand-over"] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))

    def all(self, stats: Any) -> dict[str, float]:
        """When all is done. feeder: that process; pixels: the decode processes, and the other threads of this one."""
        threads = time.process_time() - self._process - sum(self.seconds.values())
        pixels = threads + stats.decode_cores * stats.seconds
        return {"feeder": stats.feeder_cores * stats.seconds, **self.seconds, "pixels": pixels}


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
        {"datago_gpu.loader.loader": "datago-gpu", "datago_gpu.decoders.pillow": "datago-gpu", "PIL": "pillow"},
        {"files": files, "shards": shards, "dataroom": dataroom, "million": files, "payloads": payloads},
    )
