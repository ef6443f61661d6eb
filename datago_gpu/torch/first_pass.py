"""The first pass of a dataset, as often as wanted: for validation, which compares models on the same batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from datago_gpu.torch.loader_dataset import LoaderDataset

__all__ = ["FirstPass"]


class FirstPass:
    """Iterates over the first pass of a LoaderDataset, each time anew.

    It has no attribute `dataset`: a trainer that finds one takes this for a DataLoader.

    trains: the dataset of the training. If it is this one, a copy of it is iterated over: it keeps its own position.
    """

    def __init__(self, dataset: LoaderDataset, trains: Any = None) -> None:
        self.source_dataset, self.config = copy.copy(dataset) if dataset is trains else dataset, dataset.config

    def __iter__(self) -> Iterator[Any]:
        self.source_dataset.set_epoch(0)
        return iter(self.source_dataset)

    def __len__(self) -> int:
        """Returns the number of batches. Raises TypeError if it is not known."""
        return len(self.source_dataset)

    def __bool__(self) -> bool:
        return True
