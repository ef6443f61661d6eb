"""Mosaic's StreamingDataset with Pillow: local shards of its own format (MDS), a worker process for each core.

The shards are written before the clock starts. They hold the same JPEGs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from harness import Spec, cpu_of_all, main, squared


def files(spec: Spec) -> Iterator[Any]:
    import numpy as np
    import torch
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    class Pixels(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            return torch.from_numpy(np.asarray(squared(BytesIO(super().__getitem__(at)["jpeg"]), spec.size)).copy())

    with tempfile.TemporaryDirectory() as folder:
        with MDSWriter(out=folder, columns={"jpeg": "bytes"}) as shards:
            for path in spec.files():
                shards.write({"jpeg": Path(path).read_bytes()})
        clock, spent, first_s = time.perf_counter(), cpu_of_all(), 0.0
        data = Pixels(local=folder, batch_size=spec.batch)
        for batch in DataLoader(data, batch_size=spec.batch, num_workers=spec.workers):
            first_s = first_s or time.perf_counter() - clock
            yield batch
        seconds = time.perf_counter() - clock
    yield {"seconds": seconds, "first_s": first_s, "cpu_us": (cpu_of_all() - spent) / spec.count * 1e6}


if __name__ == "__main__":
    main({"streaming": "mosaicml-streaming", "torch": "torch", "numpy": "numpy", "PIL": "pillow"}, {"files": files})
