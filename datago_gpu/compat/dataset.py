"""An iterable dataset over a client, for use alone or in torch's DataLoader."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

from datago_gpu.compat.datago_client import DatagoClient
from datago_gpu.errors import ConfigError

if TYPE_CHECKING:
    from datago_gpu.compat.sample import Sample

__all__ = ["DatagoIterDataset"]


class DatagoIterDataset:
    """Yields samples. Each loop over the dataset is one pass.

    return_python_types: yield dicts with PIL images; else datago's samples.

    A DataLoader needs `batch_size=None` (or a `collate_fn` for a list of samples) and `num_workers=0`, because the
    client itself loads in parallel. For batches of tensors use `datago_gpu.torch.LoaderDataset`.
    """

    def __init__(self, datago_config: Mapping[str, Any], return_python_types: bool = True) -> None:
        _register_with_torch()
        self.client = DatagoClient(json.dumps(datago_config))
        self.client.start()
        self.return_python_types = return_python_types
        self.len = int(datago_config.get("limit", 1_000_000_000))
        self.count = 0
        self._ended = False

    def __iter__(self) -> Self:
        """Begins the next pass if one has ended. Raises ConfigError in a worker process of a DataLoader."""
        data = sys.modules.get("torch.utils.data")
        if data is not None and data.get_worker_info() is not None:
            raise ConfigError(
                "num_workers must be 0 in a DataLoader of a DatagoIterDataset, which already loads in its own process"
            )
        if self._ended:
            self.client.stop()  # the client may not have ended: this class counts samples itself
            self.client.start()
            self._ended, self.count = False, 0
        return self

    def __len__(self) -> int:
        return self.len

    def __next__(self) -> Sample | dict[str, Any]:
        read = self.client.get_sample_auto_convert if self.return_python_types else self.client.get_sample
        sample = read() if self.count < self.len else None
        if sample is None:
            self._ended = True
            raise StopIteration
        self.count += 1
        return sample

    def __getitem__(self, index: object) -> NoReturn:
        """Raises TypeError that says what to do: a DataLoader that does not know this class indexes samples."""
        raise TypeError(
            "a DatagoIterDataset cannot be indexed: iterate over it (for sample in dataset). For a DataLoader, import "
            "torch before the dataset is created, and use DataLoader(dataset, batch_size=None). For batches of "
            "tensors, use datago_gpu.torch.LoaderDataset(config)"
        )


def _register_with_torch() -> None:
    """Registers the class as an IterableDataset for DataLoaders, if the program uses torch. torch is optional."""
    data = sys.modules.get("torch.utils.data")
    if data is not None:
        data.IterableDataset.register(DatagoIterDataset)
