"""Builds the latents of a batch: arrays as they were saved, on the loader's device, or plain bytes."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decoders.placement import Placer, row_mapping, scatter_rows
from datago_gpu.feeder import wire
from datago_gpu.feeder.npy import as_array

__all__ = ["Latents"]

_NUMBERS = "biufc"
"""Dtype kinds that a GPU can hold. Other kinds, such as "|V2" (numpy's dtype for bfloat16), stay on the host."""
_HOST_ONLY = "gG"
"""Dtype characters of `numpy.longdouble` and `numpy.clongdouble` (16 bytes and more), which no GPU supports."""


class Latents:
    """Holds the latents of one name for a batch. The constructor copies the payloads out of the arena."""

    def __init__(self, column: wire.PartColumn, memory: mmap.mmap, placer: Placer) -> None:
        self.name, self.rows = column.name, column.rows
        self._placer = placer
        views = [
            memoryview(memory)[offset : offset + length]
            for offset, length in zip(column.offsets, column.lengths, strict=True)
        ]
        arrays = [_array(view, form) for view, form in zip(views, column.arrays, strict=True)]
        self._stacked: Any = None
        self._singles: list[Any] = []
        numbers = [each for each in arrays if isinstance(each, np.ndarray) and _fits_device(each)]
        if len(numbers) == len(arrays) and len({(each.shape, each.dtype.str) for each in numbers}) == 1:
            self._stacked = placer.begin(numbers)
        else:
            self._singles = [_Single(each, placer) for each in arrays]

    def of(self, kept: list[int]) -> Any:
        """Returns the latents of the samples kept.

        They are one array (N, ...) if all samples have one and the shapes agree; else a list, with None where a sample
        has none.
        """
        source, target = row_mapping(self.rows, kept)
        if self._stacked is None:
            return scatter_rows(self._placer, [each.finish() for each in self._singles], source, target, len(kept))
        stacked = self._placer.finish(self._stacked)
        if len(source) == len(kept):
            return scatter_rows(self._placer, stacked, source, target, len(kept))
        return scatter_rows(self._placer, [stacked[at] for at in range(len(self.rows))], source, target, len(kept))


class _Single:
    """A latent that cannot be stacked with the others into one array."""

    def __init__(self, value: NDArray[Any] | bytes, placer: Placer) -> None:
        self._placer = placer
        self._on_device = isinstance(value, np.ndarray) and _fits_device(value)
        self._value = placer.begin([value]) if isinstance(value, np.ndarray) and self._on_device else value

    def finish(self) -> Any:
        return self._placer.finish(self._value)[0] if self._on_device else self._value


def _array(view: memoryview, form: wire.ArrayForm | None) -> NDArray[Any] | bytes:
    """Returns a payload as an array or bytes. Numeric arrays are views (`begin` copies them); all else is a copy."""
    if form is None:
        return bytes(view)
    array = as_array(view, form)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native if _fits_device(native) else native.copy()


def _fits_device(array: NDArray[Any]) -> bool:
    return array.dtype.kind in _NUMBERS and array.dtype.char not in _HOST_ONLY
