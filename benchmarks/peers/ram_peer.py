"""Decoding from memory with all cores: the limit of the decode side. Our own rendering in one process for each core.

Nothing is listed, read, checked, sent between processes or batched in order; each process keeps its own batches.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from harness import Spec, main


def decode(spec: Spec, payloads: list[list[bytes]], taken: Any, ready: Any, start: Any) -> None:
    import numpy as np
    from PIL import Image

    from datago_gpu.imaging.geometry import cover_region
    from datago_gpu.imaging.pixels import render_array

    target = (spec.size, spec.size)
    out = np.empty((spec.batch, *target, 3), np.uint8)
    masks = np.empty((spec.batch, *target), np.uint8)
    ready.release()
    start.wait()
    while True:
        with taken:
            number = taken.value
            taken.value += 1
        if number >= len(payloads):
            break
        payload, *mask = payloads[number]
        wide, high = Image.open(BytesIO(payload)).size
        region = cover_region(high, wide, target)
        draft = spec.options.get("draft", True)
        out[number % spec.batch] = render_array(memoryview(payload), region, 1, target, draft=draft, max_pixels=10**8)
        for one in mask:
            seen = render_array(memoryview(one), region, 1, target, draft=False, max_pixels=10**8, mask="nearest")
            masks[number % spec.batch] = seen.reshape(target)


def masks(spec: Spec, path: Path) -> list[Path]:
    """The mask of a picture, where masks are wanted."""
    if not spec.mask:
        return []
    latents = json.loads(path.with_suffix(".json").read_text())["latents"]
    return [path.parent / latent["file"] for latent in latents if latent["latent_type"] == spec.mask]


def files(spec: Spec) -> Iterator[Any]:
    context = multiprocessing.get_context("fork")
    ready, start, taken = context.Semaphore(0), context.Event(), context.Value("q", 0)
    payloads = [[path.read_bytes() for path in (Path(name), *masks(spec, Path(name)))] for name in spec.files()]
    workers = [
        context.Process(target=decode, args=(spec, payloads, taken, ready, start), daemon=True)
        for _ in range(spec.workers)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    clock = time.perf_counter()
    start.set()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit("a decoding process failed")
    yield len(payloads)
    yield {"seconds": time.perf_counter() - clock, "first_s": None}  # less the reading


if __name__ == "__main__":
    main(
        {"numpy": "numpy", "datago_gpu": "datago-gpu", "PIL": "pillow"},
        {"files": files, "shards": files, "dataroom": files},
    )
