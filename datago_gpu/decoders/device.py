"""Hands pixels in GPU memory over to the trainer: by DLPack, or by `__cuda_array_interface__`.

The decoder waits until a batch is complete before returning it, so any stream can read the batch at once. parking.py
handles the memory after the trainer drops the batch. cupy stands between DALI and the frameworks, because a cupy array
can notify us when it is dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.decoders.dlpack import mark_bfloat16
from datago_gpu.decoders.parking import LEGACY_STREAM, Lease, Parking, on_device, require_cupy

__all__ = ["DeviceArray", "lend", "lend_array", "lend_list", "on_host", "read_at_once"]

_CPU, _CUDA = 1, 2
"""DLPack's numbers for device types."""

_NO_ORDER = -1
"""Stream value that asks DLPack not to synchronise streams."""


class DeviceArray:
    """Pixels in GPU memory: the type of `Batch.image` on a GPU. Pass it to `torch.from_dlpack`, `cupy.from_dlpack`, ...

    The pixels are complete and can be read on any stream without waiting. The memory belongs to the decoder. It stays
    valid while this object or anything made from it lives. After that, it stays valid for work that is already queued
    on a default stream and on the streams that the array was exported to (with all frameworks, the current stream). If
    that stream is unknown, it stays valid for all work already queued on the GPU. docs/training/batches.md has more
    under "Memory and streams".
    """

    __slots__ = ("_array", "_is_bfloat16", "_lease")

    def __init__(self, array: Any, lease: Lease, *, is_bfloat16: bool = False) -> None:
        self._array, self._lease = array, lease
        self._is_bfloat16 = is_bfloat16
        """Whether the numbers of `_array`, uint16, are the bits of bfloat16, which cupy does not have."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3) or (N, 3, H, W) for a batch; without N for an image."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, float16, float32, or bfloat16 of ml_dtypes; for masks uint8, uint16 or int32."""
        dtype: np.dtype[Any] = _bfloat16() if self._is_bfloat16 else self._array.dtype
        return dtype

    @property
    def device(self) -> str:
        """Name of the device, such as "cuda:0"."""
        return f"cuda:{self._lease.parking.device_id}"

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def __getitem__(self, index: int | slice) -> DeviceArray:
        return DeviceArray(self._array[index], self._lease, is_bfloat16=self._is_bfloat16)

    def __int__(self) -> int:
        """Returns the number in an array of one element. Waits for its copy."""
        return int(self.on_host())

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        capsule = self._export(stream, max_version, dl_device, copy=copy)
        return mark_bfloat16(capsule) if self._is_bfloat16 else capsule

    def _export(
        self,
        stream: int | None,
        max_version: tuple[int, int] | None,
        dl_device: tuple[int, int] | None,
        *,
        copy: bool | None,
    ) -> Any:
        parking, to_cpu = self._lease.parking, dl_device is not None and dl_device[0] == _CPU
        with on_device(parking.device_id):
            if copy and not to_cpu:
                return self._copy(stream).__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device)
            if not to_cpu:
                self._lease.exported_to(_reader(stream))
            return self._array.__dlpack__(stream=_NO_ORDER, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._lease.parking.device_id

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._is_bfloat16:
            raise AttributeError("__cuda_array_interface__ has no bfloat16: use DLPack, as torch.from_dlpack does")
        self._lease.exported_to(None)  # the reading stream is unknown
        with on_device(self._lease.parking.device_id):
            return {**self._array.__cuda_array_interface__, "stream": None}

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device!r})"

    def on_host(self) -> NDArray[Any]:
        """Returns a copy in the memory of the CPU."""
        with on_device(self._lease.parking.device_id):
            host: NDArray[Any] = self._array.get()
            return host.view(_bfloat16()) if self._is_bfloat16 else host

    def as_bfloat16(self) -> DeviceArray:
        """Returns the same array, whose numbers are read as the bits of bfloat16."""
        return DeviceArray(self._array, self._lease, is_bfloat16=True)

    def read_at_once(self) -> Any:
        """Returns an array over the pixels, for a reader that finishes before this object is dropped."""
        return self._array

    def _copy(self, stream: int | None) -> Any:
        """Returns a copy, made on cupy's current stream. `stream` must wait for the copy before it reads."""
        self._lease.exported_to(require_cupy().cuda.get_current_stream().ptr or LEGACY_STREAM)
        copied = self._array.copy()
        lease = Lease(self._lease.parking, copied)
        lease.exported_to(_reader(stream))
        return _view(lease, copied.data.ptr, copied.shape, copied.dtype)


def on_host(array: Any) -> NDArray[Any]:
    """Returns an array of a batch as a numpy array: a copy if it is on a GPU, the array itself if on the CPU."""
    return array.on_host() if isinstance(array, DeviceArray) else np.asarray(array)


def read_at_once(array: Any) -> Any:
    """Returns an array over the same memory, for a reader that finishes before the batch is dropped."""
    return array.read_at_once() if isinstance(array, DeviceArray) else array


def lend(parking: Parking, tensor: Any) -> DeviceArray:
    """Wraps a complete DALI tensor on the GPU as an array for the trainer, without a copy."""
    return _lend_view(Lease(parking, tensor), tensor, _dtype(tensor))


def lend_list(parking: Parking, tensors: Any) -> list[DeviceArray]:
    """Wraps each tensor of a DALI TensorList, like `lend`. Their memory is freed when the last one is dropped."""
    lease, singles = Lease(parking, tensors), list(tensors)
    return [_lend_view(lease, tensor, _dtype(singles[0])) for tensor in singles]


def lend_array(parking: Parking, array: Any) -> DeviceArray:
    """Wraps a contiguous cupy array, like `lend`. Its content must be complete, or ordered by other means."""
    lease = Lease(parking, array)
    return DeviceArray(_view(lease, array.data.ptr, array.shape, array.dtype), lease)


def _lend_view(lease: Lease, tensor: Any, dtype: np.dtype[Any]) -> DeviceArray:
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


def _bfloat16() -> np.dtype[Any]:
    from ml_dtypes import bfloat16  # for this dtype only

    dtype: np.dtype[Any] = np.dtype(bfloat16)
    return dtype


def _reader(stream: int | None) -> int | None:
    """Returns the stream that will read, from the consumer's argument of `__dlpack__`. None if unknown."""
    if stream is None or stream == 0:  # None means the legacy stream; 0, though not allowed, too
        return LEGACY_STREAM
    return stream if stream > 0 else None
