"""Makes numpy arrays that begin at a multiple of ALIGNMENT, which numpy itself does not promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datago_gpu.units import ALIGNMENT

__all__ = ["copy_aligned", "empty_aligned", "take_rows"]


def empty_aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Returns a new array without values."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    return np.ndarray(shape, kind, memory, -memory.ctypes.data % ALIGNMENT)


def copy_aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Returns a copy of an array."""
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def take_rows(array: NDArray[Any], rows: list[int]) -> NDArray[Any]:
    """Returns a copy of some rows of an array, given their indices."""
    taken = empty_aligned((len(rows), *array.shape[1:]), array.dtype)
    # "clip" writes to `taken` directly; with "raise", numpy would write to another array first.
    np.take(array, rows, axis=0, out=taken, mode="clip")
    return taken
