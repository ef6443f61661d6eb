"""A client as an iterable dataset, for torch's DataLoader (with num_workers=0: the client loads in parallel itself)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from datago_gpu.compat.client import DatagoClient

if TYPE_CHECKING:
    from datago_gpu.compat.sample import Sample

__all__ = ["DatagoIterDataset"]


class DatagoIterDataset:
    """Yields the samples of one pass. return_python_types: as dicts with PIL pictures, else as samples of datago's."""

    def __init__(self, datago_config: Mapping[str, Any], return_python_types: bool = True) -> None:
        self.client = DatagoClient(json.dumps(datago_config))
        self.client.start()
        self.return_python_types = return_python_types
        self.len = int(datago_config.get("limit", 1_000_000_000))
        self.count = 0

    def __iter__(self) -> Self:
        return self

    def __len__(self) -> int:
        return self.len

    def __next__(self) -> Sample | dict[str, Any]:
        read = self.client.get_sample_auto_convert if self.return_python_types else self.client.get_sample
        sample = read() if self.count < self.len else None
        if sample is None:
            raise StopIteration
        self.count += 1
        return sample
