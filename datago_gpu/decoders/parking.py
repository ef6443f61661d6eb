"""Keeps the GPU memory of dropped batches until nothing reads it any more.

A trainer drops its tensor while kernels that it queued still read from it. DALI's pool knows only DALI's streams and
would give the memory to the next batch at once. So every batch has a `Lease`, which collects the streams that the batch
was exported to. When the last reader is gone, the memory is parked: an event is recorded on each of these streams, and
the memory goes back when all of the events have passed.

An event must never be recorded on a stream that was destroyed. So a lease holds the objects that own its streams, where
they are known. Where a reader or its stream is not known, the decoder's thread waits for the whole GPU instead.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from datago_gpu.errors import ConfigError

__all__ = ["LEGACY_STREAM", "PER_THREAD_STREAM", "Lease", "Parking", "on_device", "require_cupy"]

LEGACY_STREAM, PER_THREAD_STREAM = 1, 2
"""Handles that CUDA gives to its two default streams; DLPack uses the same numbers."""

_SUCCESS, _NOT_READY = 0, 600
"""What cudaEventQuery returns for an event that has passed, and for one that has not."""

_KEPT_FOR_EVER: list[_Parked] = []
"""Memory that may still be read although its decoder is closed, because CUDA fails or captures a graph."""


def require_cupy() -> Any:
    """Returns the module cupy. Raises ConfigError, which names the extra to install, where it cannot be imported."""
    try:
        import cupy
    except ImportError as error:
        raise ConfigError(
            "batches on the GPU need cupy, which cannot be imported "
            f"({error}): pip install 'datago_gpu[cuda12]', or [cuda13] for CUDA 13"
        ) from error
    return cupy


@contextmanager
def on_device(device_id: int) -> Iterator[None]:
    """Makes a GPU the current one of this thread, and puts back what was current before.

    `cupy.cuda.Device` would select the former GPU again, and so create a CUDA context of half a GB on it if it had
    none: on GPU 0, for each rank that uses another one. The former context, or none, is put back instead.
    """
    cupy = require_cupy()
    if cupy.cuda.runtime.getDevice() == device_id:
        yield
        return
    context = cupy.cuda.driver.ctxGetCurrent()
    cupy.cuda.runtime.setDevice(device_id)
    try:
        yield
    finally:
        cupy.cuda.driver.ctxSetCurrent(context)


class Parking:
    """Holds the memory of dropped batches of one decoder.

    Batches may be dropped on any thread. All other methods are for the thread that creates the object; the constructor
    sets the current GPU of that thread.
    """

    def __init__(self, device_id: int) -> None:
        self.device_id = device_id
        self._cupy = require_cupy()
        self._cupy.cuda.runtime.setDevice(device_id)
        self._parked: deque[_Parked] = deque()
        self._closed = threading.Event()

    @property
    def count(self) -> int:
        """The number of batches whose memory is parked."""
        return len(self._parked)

    def park(self, memory: Any, streams: dict[int, Any] | None) -> None:
        """Takes memory whose last reader is gone. Never raises: it runs where Python collects garbage.

        streams: for each stream that may still read, its handle and the object that owns it. None: not known.
        """
        parked = _Parked(self._cupy, memory, streams)
        self._parked.append(parked)  # first, so that the memory is kept if something fails below
        with suppress(Exception), on_device(self.device_id):
            parked.record()  # at once: later, the events would also cover newer work
        if self._closed.is_set():
            self.close()  # no decoder is left to sweep

    def sweep(self) -> None:
        """Gives back the memory that nothing reads any more. Waits only where the readers are not known."""
        if self._parked:
            self._settle(wait=False, rest=self._parked)

    def close(self) -> None:
        """Waits for all readers, and gives back the memory. Batches that are dropped later wait for theirs."""
        self._closed.set()
        self._settle(wait=True, rest=_KEPT_FOR_EVER)

    def _settle(self, *, wait: bool, rest: deque[_Parked] | list[_Parked]) -> None:
        """Gives back as much of the parked memory as possible. The others go to `rest`."""
        parked: list[_Parked] = []
        with suppress(IndexError):  # other threads drop batches or close meanwhile
            while True:
                parked.append(self._parked.popleft())
        try:
            with suppress(Exception), on_device(self.device_id):
                self._give_back(parked, wait=wait)
        finally:
            rest.extend(each for each in parked if each.memory is not None)

    def _give_back(self, parked: list[_Parked], *, wait: bool) -> None:
        for each in parked:
            if each.has_passed(wait=wait):
                each.memory = None  # before the streams, which the memory's owner may still use
        unknown = [each for each in parked if each.memory is not None and not each.is_known]
        if unknown:
            self._cupy.cuda.runtime.deviceSynchronize()  # if it fails, the next sweep tries again
            for each in unknown:
                each.memory = None


class Lease:
    """Shared by all arrays over the memory of one batch. When the last array is gone, the memory is parked."""

    def __init__(self, parking: Parking, memory: Any) -> None:
        self.parking = parking
        self._memory = memory
        self._streams: dict[int, Any] = {LEGACY_STREAM: None}
        self._known = True

    def exported_to(self, stream: int | None) -> None:
        """Notes that work on a stream may read the memory.

        stream: its handle. None: a stream that is not known.
        """
        # The legacy stream waits for the per-thread streams of all threads, so its event covers them. An event on the
        # handle PER_THREAD_STREAM would be recorded on the stream of the thread that drops the batch.
        if stream in (LEGACY_STREAM, PER_THREAD_STREAM):
            return
        owner = None
        with suppress(Exception):
            owner = None if stream is None else _owner(stream, self.parking.device_id)
        if stream is None or owner is None:
            self._known = False
        else:
            self._streams[stream] = owner

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.parking.park(self._memory, self._streams if self._known else None)


class _Parked:
    """The memory of one batch, and the events that must pass before the memory may be used again."""

    __slots__ = ("_cupy", "_events", "_streams", "memory")

    def __init__(self, cupy: Any, memory: Any, streams: dict[int, Any] | None) -> None:
        self.memory = memory
        self._cupy, self._streams = cupy, streams
        self._events: list[Any] | None = None

    @property
    def is_known(self) -> bool:
        """Whether events show when the memory is free. Otherwise the whole GPU must be waited for."""
        return self._streams is not None

    def record(self) -> None:
        """Records an event on each stream. Leaves it to the decoder's next sweep while one of them captures a graph."""
        if self._streams is None:
            return
        runtime = self._cupy.cuda.runtime
        try:
            if any(runtime.streamIsCapturing(stream) for stream in self._streams):
                return
            events = []
            for stream in self._streams:
                events.append(self._cupy.cuda.Event(block=True, disable_timing=True))
                runtime.eventRecord(events[-1].ptr, stream)
            self._events = events
        except Exception:
            self._streams = None

    def has_passed(self, *, wait: bool) -> bool:
        """Returns whether the events show that nothing reads the memory any more. wait: wait for the events."""
        if self._events is None:
            self.record()
        if self._streams is None or self._events is None:
            return False
        runtime = self._cupy.cuda.runtime
        try:
            if wait:
                for event in self._events:
                    event.synchronize()
                return True
            found = {runtime.eventQuery(event.ptr) for event in self._events}
        except Exception:
            found = set()
        if not found <= {_SUCCESS, _NOT_READY} or not found:
            self._streams = None  # such as an event that became part of a CUDA graph
        return found == {_SUCCESS}


def _owner(stream: int, device_id: int) -> Any:
    """Finds the object that keeps a stream alive: the consumer's current stream. None if unknown."""
    current = require_cupy().cuda.get_current_stream(device_id)
    if current.ptr == stream and isinstance(current, require_cupy().cuda.Stream):
        return current
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        current = torch.cuda.current_stream(device_id)
        # torch never destroys streams of its own. The id of a foreign one is its handle, which is even.
        if current.cuda_stream == stream and current.stream_id % 2:
            return current
    return None
