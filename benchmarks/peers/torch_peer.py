"""torch's DataLoader with Pillow: a Dataset that opens, crops and resizes, one worker process for each core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, main, squared


class Folder:
    """A map-style dataset."""

    def __init__(self, spec: Spec) -> None:
        self.paths, self.size = spec.files(), spec.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        import numpy as np
        import torch

        return torch.from_numpy(np.asarray(squared(self.paths[index], self.size)).copy())


def files(spec: Spec) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    yield from DataLoader(Folder(spec), batch_size=spec.batch, num_workers=spec.workers)


if __name__ == "__main__":
    main({"numpy": "numpy", "torch": "torch", "PIL": "pillow"}, {"files": files, "million": files})
