"""webdataset with Pillow: one worker process of torch's DataLoader for each core, shards shared out among them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

from harness import Spec, main, squared


def shards(spec: Spec) -> Iterator[Any]:
    import numpy as np
    import torch
    import webdataset as wds

    def pixels(sample: tuple[bytes]) -> Any:
        return torch.from_numpy(np.asarray(squared(BytesIO(sample[0]), spec.size)).copy())

    data = wds.WebDataset(spec.urls, shardshuffle=False, empty_check=False).to_tuple("jpg").map(pixels)
    batches = data.batched(spec.batch, collation_fn=torch.stack)
    yield from wds.WebLoader(batches, batch_size=None, num_workers=spec.workers)


if __name__ == "__main__":
    main({"numpy": "numpy", "torch": "torch", "webdataset": "webdataset", "PIL": "pillow"}, {"shards": shards})
