"""LitData on raw files (StreamingRawDataset) with Pillow, one worker process of torch's DataLoader for each core."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from harness import Spec, main, squared


def files(spec: Spec) -> Iterator[Any]:
    import numpy as np
    import torch
    from litdata.raw import StreamingRawDataset
    from torch.utils.data import DataLoader

    def pixels(payload: bytes) -> Any:
        return torch.from_numpy(np.asarray(squared(BytesIO(payload), spec.size)).copy())

    with tempfile.TemporaryDirectory() as cache:
        data = StreamingRawDataset(spec.root, cache_dir=cache, transform=pixels)
        yield from DataLoader(data, batch_size=spec.batch, num_workers=spec.workers, collate_fn=torch.stack)


if __name__ == "__main__":
    main({"numpy": "numpy", "torch": "torch", "litdata": "litdata", "PIL": "pillow"}, {"files": files})
