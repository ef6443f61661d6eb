"""torch's DataLoader with Pillow: a Dataset that opens, crops and resizes, one worker process for each core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Spec, main, squared


class Folder:
    """A map-style dataset of `spec.count` pictures, which goes round over the files."""

    def __init__(self, spec: Spec) -> None:
        self.paths, self.size, self.count = spec.files(), spec.size, spec.count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        import numpy as np
        import torch

        return torch.from_numpy(np.asarray(squared(self.paths[index % len(self.paths)], self.size)).copy())


def files(spec: Spec, **how: Any) -> Iterator[Any]:
    """Batches on the device. how: further arguments of the DataLoader."""
    from torch.utils.data import DataLoader

    pinned = spec.device != "cpu"
    loader = DataLoader(Folder(spec), spec.batch, num_workers=spec.workers, pin_memory=pinned, **how)
    for images in loader:
        yield images.to(spec.device, non_blocking=True)


if __name__ == "__main__":
    main({"numpy": "numpy", "torch": "torch", "PIL": "pillow"}, {"files": files, "million": files})
