"""Grain, JAX's loader, with Pillow: one worker process for each core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, main, squared


class Pixels:
    """A picture as an array. A class, so that the workers, which are spawned, can load it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, path: str) -> Any:
        import numpy as np

        return np.asarray(squared(path, self.size))


def files(spec: Spec) -> Iterator[Any]:
    import grain

    workers = grain.MultiprocessingOptions(num_workers=spec.workers, per_worker_buffer_size=2)
    data = grain.MapDataset.source(spec.files()).map(Pixels(spec.size)).to_iter_dataset()
    yield from data.batch(spec.batch).mp_prefetch(workers)


if __name__ == "__main__":
    main({"grain": "grain", "numpy": "numpy", "PIL": "pillow"}, {"files": files})
