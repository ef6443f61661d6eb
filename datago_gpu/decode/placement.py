"""Arrays that need no decoding: brought to the loader's device, and the rows of decoded ones put in order.

`begin` starts a copy, `finish` waits for it: in between, images decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decode.device import DeviceArray, lend_array
from datago_gpu.decode.parking import Parking, require_cupy

__all__ = ["GpuPlacer", "HostPlacer", "Placer", "arranged", "moves", "runs"]


class Placer(Protocol):
    """Knows a device. Used from one thread."""

    def begin(self, rows: Sequence[NDArray[Any]]) -> Any:
        """Start to copy arrays of numbers of one shape and dtype to the device. They may be written again at once."""
        ...

    def finish(self, begun: Any) -> Any:
        """What `begin` returned -> one array on the device, (len(rows), ...): complete, readable on any stream."""
        ...

    def rows(self, array: Any, source: list[int], target: list[int], count: int) -> Any:
        """A new array of `count` rows: of `array`, row source[i] at target[i], and zeros elsewhere."""
        ...

    def joined(self, arrays: Sequence[Any]) -> Any:
        """A new array of the rows of several, one behind the other."""
        ...

    def close(self) -> None:
        """Give back what nobody reads any more. Arrays handed out stay valid."""
        ...


class HostPlacer:
    """The CPU: numpy."""

    def begin(self, rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(rows)

    def finish(self, begun: Any) -> Any:
        return begun

    def rows(self, array: NDArray[Any], source: list[int], target: list[int], count: int) -> NDArray[Any]:
        result = np.zeros((count, *array.shape[1:]), array.dtype)
        result[target] = array[source]
        return result

    def joined(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(arrays)

    def close(self) -> None:
        pass


class GpuPlacer:
    """A GPU: copies from pinned memory, on a stream of their own. Nothing here has to be compiled by cupy."""

    def __init__(self, device_id: int) -> None:
        self._cupy = require_cupy()
        self._parking = Parking(device_id)  # makes the GPU this thread's
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
        return device, pinned  # which must live until the copy is done

    def finish(self, begun: Any) -> DeviceArray:
        device, _pinned = begun
        return self._lent(device)

    def rows(self, array: DeviceArray, source: list[int], target: list[int], count: int) -> DeviceArray:
        with self._stream:
            given = self._cupy.from_dlpack(array)
            result = self._cupy.empty((count, *given.shape[1:]), given.dtype)
            if result.nbytes:
                result.data.memset_async(0, result.nbytes, self._stream)
                for here, there, length in runs(source, target):
                    size = length * result.nbytes // count
                    result[there:].data.copy_from_device_async(given[here:].data, size, self._stream)
        return self._lent(result)

    def joined(self, arrays: Sequence[DeviceArray]) -> DeviceArray:
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
        copied = self._cupy.cuda.Event(block=True, disable_timing=True)  # one that does not keep a core busy
        self._cupy.cuda.runtime.eventRecord(copied.ptr, self._stream.ptr)
        copied.synchronize()
        self._parking.sweep()
        return lend_array(self._parking, device)


def runs(source: Sequence[int], target: Sequence[int]) -> list[tuple[int, int, int]]:
    """Splits a move of rows into moves of neighbours: (first row, where it goes, how many rows)."""
    found: list[tuple[int, int, int]] = []
    for here, there in zip(source, target, strict=True):
        if found and (here - found[-1][0], there - found[-1][1]) == (found[-1][2], found[-1][2]):
            found[-1] = (found[-1][0], found[-1][1], found[-1][2] + 1)
        else:
            found.append((here, there, 1))
    return found


def moves(rows: Sequence[int], kept: Sequence[int]) -> tuple[list[int], list[int]]:
    """`source` and `target` for `arranged`: what belongs to the samples `rows` goes to their places among `kept`."""
    places = {row: place for place, row in enumerate(kept)}
    source = [here for here, row in enumerate(rows) if row in places]
    return source, [places[rows[here]] for here in source]


def arranged(placer: Placer, array: Any, source: list[int], target: list[int], count: int) -> Any:
    """Rows of an array, or entries of a list, put in order; the array itself where that changes nothing.

    Where a list has no entry there is None, where an array has no row there are zeros.
    """
    if len(array) == count and source == target == list(range(count)):
        return array
    if isinstance(array, list):
        result = [None] * count
        for here, there in zip(source, target, strict=True):
            result[there] = array[here]
        return result
    return placer.rows(array, source, target, count)
