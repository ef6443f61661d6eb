"""Batches as tensors, which share the memory of the batches' arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from datago_gpu.batch import COLUMNS, ON_DEVICE, Batch
from datago_gpu.batch_sample import generator_of
from datago_gpu.errors import ConfigError

__all__ = ["Bucket", "TensorBatch", "as_tensors"]

_PLAIN = frozenset(COLUMNS.values()) - ON_DEVICE
"""Fields that hold no arrays. `as_tensors` does not search them, because they can be large."""


class Bucket(NamedTuple):
    """Height and width in pixels of all images of a batch. Equal to the plain tuple, but a DataLoader keeps it as it is
    (it turns plain tuples into lists)."""

    height: int
    width: int


class TensorBatch(dict[str, Any]):
    """Maps the field names of a `Batch` to their values, with tensors in place of arrays.

    image: (N, H, W, 3) or (N, 3, H, W), of the dtype set in `image_config`, on the loader's device; a list of N
        tensors without `crop_and_resize`; None without `require_images`.
    masks, additional_images, latents: name -> tensor, list or None, as in a Batch.
    embeddings: float32 (N, D), or None. labels: int64 (N,), or None.
    original_sizes, image_sizes, crops, flipped, present, real, sample_epochs: on the host: int32 (N, 2) twice,
        float32 (N, 4), bool (N,), name -> bool (N,), bool (N,), and int64 (N,).
    views, view_crops, view_flipped: with `image_config.views` only: for each view what `image`, `crops` and `flipped`
        are for the first one.
    bucket: a Bucket (height, width), or None. epoch: number of the pass, counted from 0. seed, lockstep: the settings.
    ids, sources, attributes, tags, duplicate_states, mix, pass_numbers: lists of N.
    """

    def rng(self, index: int, view: int = 0) -> np.random.Generator:
        """Returns a generator of random numbers that belongs to one sample: see `Batch.rng`."""
        epoch, pass_number = self["sample_epochs"][index], self["pass_numbers"][index]
        return generator_of(self["seed"], epoch, pass_number, self["ids"][index], view)


def as_tensors(batch: Batch) -> TensorBatch:
    """Returns the fields of a batch, with tensors that share the memory of its arrays."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    values |= {name: _tensors(value) for name, value in values.items() if name not in _PLAIN}
    if values.pop("further_views"):  # otherwise `image` would be copied twice by whoever moves the tensors
        views = {name: _tensors(getattr(batch, name)[1:]) for name in ("views", "view_crops", "view_flipped")}
        first = {"views": "image", "view_crops": "crops", "view_flipped": "flipped"}
        values |= {name: [values[first[name]], *further] for name, further in views.items()}
    if batch.bucket is not None:
        values["bucket"] = Bucket(*batch.bucket)
    return TensorBatch(values)


def _tensors(value: Any) -> Any:
    """Converts arrays to tensors, also within dicts and lists. Other values stay unchanged."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":
            return _tensors(array.view(np.int16)).view(torch.bfloat16)
        try:
            return torch.from_numpy(array if array.flags.writeable else array.copy())
        except TypeError:  # torch has no such dtype, such as "|V2" (numpy's dtype for bfloat16)
            return array
    if isinstance(value, dict):
        return {name: _tensors(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_tensors(each) for each in value]
    return torch.from_dlpack(value) if hasattr(value, "__dlpack__") else value


def _refuse_collation(*_: Any, **__: Any) -> Any:
    raise ConfigError(
        "a LoaderDataset yields whole batches: set batch_size=None in the DataLoader, and LoaderConfig's batch_size"
    )


default_collate_fn_map[TensorBatch] = _refuse_collation
