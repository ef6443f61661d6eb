"""The PyTorch interface: an IterableDataset that yields batches of tensors.

dataset = LoaderDataset(config)
for batch in dataset: ...                                            # by itself,
for batch in DataLoader(dataset, batch_size=None): ...               # or behind a DataLoader

Lightning and the Trainer of transformers have modules of their own: datago_gpu.lightning and datago_gpu.huggingface.
"""

from __future__ import annotations

from datago_gpu.torch.loader_dataset import LoaderDataset
from datago_gpu.torch.rank_states import StateOfAllRanks
from datago_gpu.torch.tensors import Bucket, TensorBatch, as_tensors

__all__ = ["Bucket", "LoaderDataset", "StateOfAllRanks", "TensorBatch", "as_tensors"]
