"""Hands pixels in GPU memory over to the trainer, and takes the memory back only when nobody reads it any more.

The decoder waits for a batch before it hands it out, so that it can be read on any stream. What is left is its end:
a trainer drops its tensor while kernels that it queued still read from it, and DALI's pool, which knows only DALI's
streams, would give the memory to the next batch. So each batch has a `Lease`: when its last reader is gone, an event is
recorded on every stream that it was exported to, and the memory stays parked until those events have passed.

cupy is imported here only. It stands between DALI and the frameworks, because its arrays tell when they are dropped.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import Any

import numpy as np

from datago_gpu.errors import ConfigError

__all__ = ["DeviceArray", "Parking", "require_cupy"]

_LEGACY_STREAM, _PER_THREAD_STREAM = 1, 2
"""Handles that CUDA gives to its two default streams; DLPack uses the same numbers."""


def require_cupy() -> Any:
    """The module cupy. Raises ConfigError, naming the extra to install, where it cannot be imported."""
    try:
        import cupy
    except ImportError as error:
        raise ConfigError(
            "batches on the GPU are handed over with cupy, which cannot be imported "
            f"({error}): pip install 'datago_gpu[cuda12]', or [cuda13] for CUDA 13"
        ) from error
    return cupy


class DeviceArray:
    """Pixels in GPU memory: what `Batch.image` is on a GPU. Give it to `torch.from_dlpack`, `cupy.from_dlpack`, ...

    Complete and readable on any stream. The memory belongs to the decoder; it is valid for as long as this object or
    anything made from it by DLPack lives, and for the work that was queued by then on the stream it was exported to
    (the current stream, for all frameworks) or on a default stream. Work on further streams is the caller's to order
    before the stream it was exported to.
    """

    __slots__ = ("_array", "_lease")

    def __init__(self, array: Any, lease: _Lease) -> None:
        self._array, self._lease = array, lease

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3) or (N, 3, H, W) for a batch, without N for an image."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, float16 or float32."""
        dtype: np.dtype[Any] = self._array.dtype
        return dtype

    @property
    def device(self) -> str:
        """Such as "cuda:0"."""
        return f"cuda:{self._lease.device_id}"

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def __getitem__(self, index: int | slice) -> DeviceArray:
        return DeviceArray(self._array[index], self._lease)

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        # None stands for the legacy stream. -1 asks for no ordering, and does not say which stream will read.
        self._lease.exported_to(stream if stream is not None and stream > 0 else _LEGACY_STREAM)
        with require_cupy().cuda.Device(self._lease.device_id):
            return self._array.__dlpack__(stream=stream, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._array.__dlpack_device__()
        return int(kind), int(index)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._lease.exported_to(require_cupy().cuda.get_current_stream().ptr or _LEGACY_STREAM)
        return dict(self._array.__cuda_array_interface__)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device!r})"


class Parking:
    """The memory of dropped batches, until the work that was queued on it has passed.

    Batches end on whatever thread drops them; `sweep` and `close` are the decoder's.
    """

    def __init__(self, device_id: int) -> None:
        self._device_id = device_id
        self._cupy = require_cupy()
        self._parked: deque[tuple[Any, list[Any]]] = deque()
        self._closed = threading.Event()

    def lend(self, tensor: Any) -> DeviceArray:
        """A DALI tensor on the GPU, whose content is complete, as an array for the trainer. No copy."""
        dtype = np.dtype(tensor.__cuda_array_interface__["typestr"])
        return self._lend(tensor, tensor.data_ptr(), tuple(tensor.shape()), dtype)

    def lend_array(self, array: Any) -> DeviceArray:
        """The same for an array of cupy's, contiguous."""
        return self._lend(array, array.data.ptr, array.shape, array.dtype)

    def _lend(self, owner: Any, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        cuda = self._cupy.cuda
        lease = _Lease(self, owner, self._device_id)
        size = int(np.prod(shape)) * dtype.itemsize
        with cuda.Device(self._device_id):
            memory = cuda.UnownedMemory(pointer, size, lease, self._device_id)
            array = self._cupy.ndarray(shape, dtype, cuda.MemoryPointer(memory, 0))
        return DeviceArray(array, lease)

    def sweep(self) -> None:
        """Give back what has been read to the end, oldest first. Does not wait."""
        while self._parked and all(event.done for event in self._parked[0][1]):
            self._parked.popleft()

    def close(self) -> None:
        """Wait for what is queued, and give back the memory. Later ends are waited for as they come."""
        self._closed.set()
        while self._parked:
            tensor, events = self._parked.popleft()
            for event in events:
                event.synchronize()
            del tensor

    def end(self, tensor: Any, streams: set[int]) -> None:
        """Park memory whose last reader is gone. Called on any thread."""
        with self._cupy.cuda.Device(self._device_id):
            self._parked.append((tensor, [event for stream in streams for event in self._record(stream)]))
        if self._closed.is_set():
            self.close()  # no decoder is left to sweep

    def _record(self, stream: int) -> list[Any]:
        """An event behind everything queued on a stream; none where the stream is gone, and then its work is done."""
        event = self._cupy.cuda.Event(disable_timing=True)
        try:
            event.record(self._cupy.cuda.ExternalStream(stream, self._device_id))
        except self._cupy.cuda.runtime.CUDARuntimeError:
            self._cupy.cuda.Device(self._device_id).synchronize()
            return []
        return [event]


class _Lease:
    """Held by every array over one DALI tensor. Its end is theirs."""

    def __init__(self, parking: Parking, tensor: Any, device_id: int) -> None:
        self.device_id = device_id
        self._parking, self._tensor = parking, tensor
        self._streams = {_LEGACY_STREAM, _PER_THREAD_STREAM}

    def exported_to(self, stream: int) -> None:
        self._streams.add(stream)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._parking.end(self._tensor, self._streams)
