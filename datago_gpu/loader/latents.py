"""Latents of a batch: arrays as they were saved, on the loader's device, or plain bytes."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decode.placement import Placer, arranged, moves
from datago_gpu.feeder import wire
from datago_gpu.feeder.npy import as_array

__all__ = ["Latents"]

_NUMBERS = "biufc"
"""Kinds of dtype that a device can hold. Others, such as the "|V2" that numpy makes of bfloat16, stay on the host."""
_HOST_ONLY = "gG"
"""Characters of the dtypes of 16 bytes a number, which no GPU knows: `numpy.longdouble` and its complex kin."""


class Latents:
    """One name's payloads of a batch, copied out of the arena when it is made."""

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
        """For the samples kept: one array (N, ...) if all have one of the same shape; else a list, None for none."""
        source, target = moves(self.rows, kept)
        if self._stacked is None:
            return arranged(self._placer, [each.finished() for each in self._singles], source, target, len(kept))
        stacked = self._placer.finish(self._stacked)
        if len(source) == len(kept):
            return arranged(self._placer, stacked, source, target, len(kept))
        return arranged(self._placer, [stacked[at] for at in range(len(self.rows))], source, target, len(kept))


class _Single:
    """A latent that does not go with the others into one array."""

    def __init__(self, value: NDArray[Any] | bytes, placer: Placer) -> None:
        self._placer = placer
        self._on_device = isinstance(value, np.ndarray) and _fits_device(value)
        self._value = placer.begin([value]) if isinstance(value, np.ndarray) and self._on_device else value

    def finished(self) -> Any:
        return self._placer.finish(self._value)[0] if self._on_device else self._value


def _array(view: memoryview, form: wire.ArrayForm | None) -> NDArray[Any] | bytes:
    """What a payload is. An array of numbers is a view; `begin` copies it. Anything else is copied here."""
    if form is None:
        return bytes(view)
    array = as_array(view, form)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native if _fits_device(native) else native.copy()


def _fits_device(array: NDArray[Any]) -> bool:
    return array.dtype.kind in _NUMBERS and array.dtype.char not in _HOST_ONLY
