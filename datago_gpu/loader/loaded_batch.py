"""`LoadedBatch`, the Batch that a Loader returns: it reads the records of its samples when somebody asks for them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from datago_gpu.batch import COLUMNS, ON_DEVICE, Batch
from datago_gpu.feeder import wire
from datago_gpu.loader.loaded_views import flipped_of
from datago_gpu.views import sizes_of

__all__ = ["LoadedBatch"]

_FIELDS = {column: name for name, column in COLUMNS.items() if column not in ON_DEVICE}
"""Field of a Batch -> field of a sample's record."""


class LoadedBatch(Batch):
    """A Batch that decodes each list when it is read for the first time, on the thread that reads it.

    Many trainers read none or one of the lists. As Python objects they may take 20 times the memory of their text, so
    that batches which wait in the queue are smaller, too.
    """

    __slots__ = ("_kept", "_message", "_whole")
    _message: wire.EncodedBatch
    _kept: list[int]
    """For each sample, its row in the message."""
    _whole: bool
    """Whether the samples are those of the message, in the same order."""

    @classmethod
    def of(
        cls, message: wire.EncodedBatch, kept: list[int], real: list[bool] | None = None, *, seed: int = 0
    ) -> LoadedBatch:
        """Returns a Batch of the samples kept, without images, parts, embeddings and labels. real: None if all are."""
        batch = cls.__new__(cls)
        batch._message, batch._kept = message, kept  # noqa: SLF001  # of this class
        batch._whole = kept == list(range(len(message.lengths)))  # noqa: SLF001
        batch.real = np.ones(len(kept), np.bool_) if real is None else np.array(real, np.bool_)
        # `__init__`, which sets all fields, serves `dataclasses.replace`.
        batch.image = batch.embeddings = batch.labels = None
        batch.bucket, batch.epoch, batch.seed = message.bucket, message.epoch, seed
        batch.masks, batch.additional_images, batch.latents, batch.present = {}, {}, {}, {}
        batch.further_views = []
        batch.lockstep = message.fills is not None
        return batch

    def __getattr__(self, name: str) -> Any:
        """Decodes a field that has not been read yet, and keeps the result."""
        if name in _FIELDS:
            value: Any = self._message.column(_FIELDS[name])
            value = value if self._whole else [value[at] for at in self._kept]
            if name == "attributes":  # one call for all: JSON objects in an array
                value = msgspec.json.decode(b"[" + b",".join(value) + b"]")
        elif name == "original_sizes":
            value = self._rows(np.frombuffer(self._message.original_sizes, np.int32), 2)
        elif name == "crops":
            value = self._rows(np.frombuffer(self._message.crops, np.float32), 4)
        elif name == "sample_epochs":
            value = self._epochs()
        elif name == "flipped":
            value = flipped_of(self._message, self._kept)
        elif name == "image_sizes":
            value = self._image_sizes()
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        setattr(self, name, value)
        return value

    def _epochs(self) -> NDArray[np.int64]:
        """Returns the epoch of each sample. In lockstep all samples are of the batch's epoch."""
        epochs = np.full(len(self._kept), self.epoch, np.int64)
        if not self._message.fills:
            numbers = (self._message.indices[row] for row in self._kept)
            epochs[:] = [wire.epoch_and_index(number, self.epoch)[0] for number in numbers]
        return epochs

    def _image_sizes(self) -> NDArray[np.int32]:
        if self.bucket:
            return sizes_of(self.bucket, len(self._kept))
        return self._rows(np.frombuffer(self._message.buckets or self._message.sizes, np.int32), 2)

    def _rows(self, numbers: NDArray[Any], columns: int) -> NDArray[Any]:
        """Returns a new array with the rows of the samples kept."""
        rows = numbers.reshape(-1, columns)
        return rows.copy() if self._whole else rows[self._kept]

    def __reduce__(self) -> tuple[type[Batch], tuple[Any, ...]]:
        """Copies and pickles as a plain Batch."""
        return Batch, tuple(getattr(self, each.name) for each in fields(Batch))
