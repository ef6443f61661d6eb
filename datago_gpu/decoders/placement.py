"""Copies arrays that need no decoding to the loader's device, and reorders the rows of arrays there.

`begin` starts a copy and `finish` waits for the copy. Images are decoded in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decoders.aligned_memory import empty_aligned
from datago_gpu.decoders.device import DeviceArray, lend_array
from datago_gpu.decoders.parking import Parking, require_cupy

__all__ = ["GpuPlacer", "HostPlacer", "Placer", "consecutive_runs", "row_mapping", "scatter_rows"]


class Placer(Protocol):
    """Copies and joins arrays on one device. For one thread."""

    def begin(self, rows: Sequence[NDArray[Any]]) -> Any:
        """Starts to copy numeric arrays of one shape and dtype to the device. The caller may overwrite them at once."""
        ...

    def finish(self, begun: Any) -> Any:
        """Waits for a copy that `begin` returned. Returns one array (len(rows), ...), readable on any stream."""
        ...

    def rows(self, array: Any, source: list[int], target: list[int], count: int) -> Any:
        """Returns a new array of `count` rows: row source[i] of `array` at target[i], and zeros elsewhere.

        A row may go to several places.
        """
        ...

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        """Returns a new array with the rows of all arrays, in order."""
        ...

    def close(self) -> None:
        """Frees the memory that nobody reads any more. Arrays already returned stay valid."""
        ...


class HostPlacer:
    """The placer for the CPU, with numpy."""

    def begin(self, rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        result = empty_aligned((len(rows), *rows[0].shape), rows[0].dtype)
        return np.stack(rows, out=result)

    def finish(self, begun: Any) -> Any:
        return begun

    def rows(self, array: NDArray[Any], source: list[int], target: list[int], count: int) -> NDArray[Any]:
        result = empty_aligned((count, *array.shape[1:]), array.dtype)
        result[...] = 0
        result[target] = array[source]
        return result

    def concatenate(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        result = empty_aligned((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
        return np.concatenate(arrays, out=result)

    def close(self) -> None:
        pass


class GpuPlacer:
    """The placer for a GPU: copies from pinned memory on its own stream. Uses nothing that cupy must compile."""

    def __init__(self, device_id: int) -> None:
        self._cupy = require_cupy()
        self._parking = Parking(device_id)  # sets the current GPU of this thread
        self._stream = self._cupy.cuda.Stream(non_blocking=True)

    def begin(self, rows: Sequence[NDArray[Any]]) -> Any:
        cupy, shape, dtype = self._cupy, (len(rows), *rows[0].shape), rows[0].dtype
        size = len(rows) * rows[0].size
        memory = cupy.cuda.alloc_pinned_memory(max(1, size * dtype.itemsize))
        pinned = np.frombuffer(memory, dtype, size).reshape(shape)
        np.stack(rows, out=pinned)
        with self._stream:
            device = cupy.empty(shape, dtype)
            device.set(pinned, stream=self._stream)
        return device, pinned  # `pinned` must live until the copy is done

    def finish(self, begun: Any) -> DeviceArray:
        device, _pinned = begun
        return self._lent(device)

    def rows(self, array: DeviceArray, source: list[int], target: list[int], count: int) -> DeviceArray:
        with self._stream:
            given = self._cupy.from_dlpack(array)
            result = self._cupy.empty((count, *given.shape[1:]), given.dtype)
            if result.nbytes:
                result.data.memset_async(0, result.nbytes, self._stream)
                for here, there, length in consecutive_runs(source, target):
                    size = length * result.nbytes // count
                    result[there:].data.copy_from_device_async(given[here:].data, size, self._stream)
        return self._lent(result)

    def concatenate(self, arrays: Sequence[DeviceArray]) -> DeviceArray:
        with self._stream:
            given = [self._cupy.from_dlpack(array) for array in arrays]
            result = self._cupy.empty((sum(map(len, given)), *given[0].shape[1:]), given[0].dtype)
            row = 0
            for each in given:
                result[row:].data.copy_from_device_async(each.data, each.nbytes, self._stream)
                row += len(each)
        return self._lent(result)

    def close(self) -> None:
        self._parking.close()

    def _lent(self, device: Any) -> DeviceArray:
        copied = self._cupy.cuda.Event(block=True, disable_timing=True)  # block=True sleeps instead of polling
        self._cupy.cuda.runtime.eventRecord(copied.ptr, self._stream.ptr)
        copied.synchronize()
        self._parking.sweep()
        return lend_array(self._parking, device)


def consecutive_runs(source: Sequence[int], target: Sequence[int]) -> list[tuple[int, int, int]]:
    """Groups a move of rows into moves of consecutive rows: (first source row, first target row, number of rows)."""
    found: list[tuple[int, int, int]] = []
    for here, there in zip(source, target, strict=True):
        if found and (here - found[-1][0], there - found[-1][1]) == (found[-1][2], found[-1][2]):
            found[-1] = (found[-1][0], found[-1][1], found[-1][2] + 1)
        else:
            found.append((here, there, 1))
    return found


def row_mapping(rows: Sequence[int], kept: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns `source` and `target` for `scatter_rows`. rows: the sample of each row. kept: samples to return, of which
    one may occur several times."""
    at = {row: here for here, row in enumerate(rows)}
    target = [place for place, row in enumerate(kept) if row in at]
    return [at[kept[place]] for place in target], target


def scatter_rows(placer: Placer, array: Any, source: list[int], target: list[int], count: int) -> Any:
    """Moves rows of an array, or entries of a list, from `source` to `target`. Returns `array` if nothing changes.

    Missing entries of a list are None; missing rows of an array are zeros.
    """
    if len(array) == count and source == target == list(range(count)):
        return array
    if isinstance(array, list):
        result = [None] * count
        for here, there in zip(source, target, strict=True):
            result[there] = array[here]
        return result
    return placer.rows(array, source, target, count)
