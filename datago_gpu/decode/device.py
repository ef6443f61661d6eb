"""Hands pixels in GPU memory over to the trainer: by DLPack, or by `__cuda_array_interface__`.

The decoder waits for a batch before it hands the batch out, so that any stream can read it at once. What becomes of the
memory when the trainer drops the batch is the part of parking.py. cupy stands between DALI and the frameworks, because
its arrays tell when they are dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decode.parking import LEGACY_STREAM, Lease, Parking, on_device, require_cupy

__all__ = ["DeviceArray", "lend", "lend_array", "lend_list", "on_host", "read_at_once"]

_CPU, _CUDA = 1, 2
"""Kinds of devices, by the numbers of DLPack."""

_NO_ORDER = -1
"""Asks DLPack for no order between streams."""


class DeviceArray:
    """Pixels in GPU memory: what `Batch.image` is on a GPU. Give it to `torch.from_dlpack`, `cupy.from_dlpack`, ...

    Complete, and readable on any stream without waiting. The memory belongs to the decoder. It is valid for as long as
    this object or anything made from it lives, and for the work that was queued by then on a default stream and on the
    streams that it was exported to (the current stream, for all frameworks). Where that stream is not known, it is
    valid for all work that was queued on the GPU by then. The guide says more under "Memory and streams".
    """

    __slots__ = ("_array", "_lease")

    def __init__(self, array: Any, lease: Lease) -> None:
        self._array, self._lease = array, lease

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3) or (N, 3, H, W) for a batch, without N for an image."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, float16 or float32; of masks uint8, uint16 or int32."""
        dtype: np.dtype[Any] = self._array.dtype
        return dtype

    @property
    def device(self) -> str:
        """Such as "cuda:0"."""
        return f"cuda:{self._lease.parking.device_id}"

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def __getitem__(self, index: int | slice) -> DeviceArray:
        return DeviceArray(self._array[index], self._lease)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        parking, to_cpu = self._lease.parking, dl_device is not None and dl_device[0] == _CPU
        with on_device(parking.device_id):
            if copy and not to_cpu:
                return self._copied(stream).__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device)
            if not to_cpu:
                self._lease.exported_to(_reader(stream))
            return self._array.__dlpack__(stream=_NO_ORDER, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._lease.parking.device_id

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._lease.exported_to(None)  # nothing tells on which stream it will be read
        with on_device(self._lease.parking.device_id):
            return {**self._array.__cuda_array_interface__, "stream": None}

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device!r})"

    def on_host(self) -> NDArray[Any]:
        """Returns a copy in the memory of the CPU."""
        with on_device(self._lease.parking.device_id):
            host: NDArray[Any] = self._array.get()
            return host

    def read_at_once(self) -> Any:
        """Returns what to read the pixels by, for somebody who has read them when this object is dropped."""
        return self._array

    def _copied(self, stream: int | None) -> Any:
        """Returns a copy, made on cupy's current stream, for work on `stream`, which has to wait for it."""
        self._lease.exported_to(require_cupy().cuda.get_current_stream().ptr or LEGACY_STREAM)
        copied = self._array.copy()
        lease = Lease(self._lease.parking, copied)
        lease.exported_to(_reader(stream))
        return _view(lease, copied.data.ptr, copied.shape, copied.dtype)


def on_host(array: Any) -> NDArray[Any]:
    """Returns an array of a batch as one of numpy's: copied from a GPU, itself on the CPU."""
    return array.on_host() if isinstance(array, DeviceArray) else np.asarray(array)


def read_at_once(array: Any) -> Any:
    """Returns what to read an array of a batch by, for somebody who has read it when the batch is dropped."""
    return array.read_at_once() if isinstance(array, DeviceArray) else array


def lend(parking: Parking, tensor: Any) -> DeviceArray:
    """Makes an array for the trainer of a DALI tensor on the GPU whose content is complete. Copies nothing."""
    return _lent(Lease(parking, tensor), tensor, _dtype(tensor))


def lend_list(parking: Parking, tensors: Any) -> list[DeviceArray]:
    """Does the same for each tensor of a DALI TensorList. Their memory goes back when the last of them is dropped."""
    lease, singles = Lease(parking, tensors), list(tensors)
    return [_lent(lease, tensor, _dtype(singles[0])) for tensor in singles]


def lend_array(parking: Parking, array: Any) -> DeviceArray:
    """Does the same for an array of cupy's, contiguous, whose content is complete or ordered otherwise."""
    lease = Lease(parking, array)
    return DeviceArray(_view(lease, array.data.ptr, array.shape, array.dtype), lease)


def _lent(lease: Lease, tensor: Any, dtype: np.dtype[Any]) -> DeviceArray:
    return DeviceArray(_view(lease, tensor.data_ptr(), tuple(tensor.shape()), dtype), lease)


def _view(lease: Lease, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Makes a cupy array over memory that the lease holds."""
    cupy, device_id = require_cupy(), lease.parking.device_id
    size = int(np.prod(shape)) * dtype.itemsize
    memory = cupy.cuda.UnownedMemory(pointer, size, lease, device_id)
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))


def _dtype(tensor: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(tensor.__cuda_array_interface__["typestr"])
    return dtype


def _reader(stream: int | None) -> int | None:
    """Which stream will read, of what a consumer passes to `__dlpack__`. None where it does not say."""
    if stream is None or stream == 0:  # None is the legacy stream; 0, which is not allowed, as well
        return LEGACY_STREAM
    return stream if stream > 0 else None
