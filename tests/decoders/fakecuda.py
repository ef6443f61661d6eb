"""A GPU that exists on paper only: streams, work that waits in them, events, and memory that work reads.

The real cupy is used, which makes arrays without a driver. What would ask the driver is replaced by this model. The
model knows what a real GPU would show only now and then: memory given back under work that reads it, and events that
are recorded on streams that were destroyed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self

import cupy
import pytest

LEGACY, PER_THREAD = 1, 2
NOT_READY, CAPTURED = 600, 907


class FakeError(RuntimeError):
    """Stands for CUDARuntimeError."""


class FakeStream(cupy.cuda.Stream):
    """A stream that is destroyed with its object, as those of cupy are."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.ptr = gpu, gpu.new_stream()

    def __del__(self, **_: Any) -> None:
        self.gpu.destroyed.add(self.ptr)


class FakeGpu:
    """Each stream has a list of work: of the memory that a kernel reads. `run` lets a stream get on."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.queued: dict[int, list[Token]] = {LEGACY: [], PER_THREAD: []}
        self.passed = {LEGACY: 0, PER_THREAD: 0}
        self.destroyed: set[int] = set()
        self.capturing: set[int] = set()
        self.recorded: list[int] = []
        self.wrong: list[str] = []
        self.broken = False
        """Every call fails."""
        self.current = index
        self.contexts = {index}
        """GPUs on which a context was made."""
        self.current_stream: Any = SimpleNamespace(ptr=0)
        self.synchronized = self.switched = 0

    def new_stream(self) -> int:
        """Make a stream that nobody owns, and return its handle."""
        handle = 4096 + 16 * len(self.queued)
        self.queued[handle], self.passed[handle] = [], 0
        return handle

    def read(self, memory: Token, stream: int) -> None:
        """Queue a kernel."""
        self.queued[stream].append(memory)

    def run(self, stream: int, count: int = 1000) -> None:
        """Let some of a stream's kernels run."""
        self.passed[stream] = min(len(self.queued[stream]), self.passed[stream] + count)

    def is_read(self, memory: Token) -> bool:
        """Whether a kernel that has not run reads it."""
        return any(memory in work[self.passed[stream] :] for stream, work in self.queued.items())

    # What cupy.cuda.runtime and cupy.cuda.driver are asked for.

    def getDevice(self) -> int:  # noqa: N802
        self._check()
        return self.current

    def setDevice(self, index: int) -> None:  # noqa: N802
        self._check()
        self.switched += 1
        self.current = index
        self.contexts.add(index)

    def ctxGetCurrent(self) -> int:  # noqa: N802
        return self.current + 1000 if self.current in self.contexts else 0

    def ctxSetCurrent(self, context: int) -> None:  # noqa: N802
        self.current = max(0, context - 1000)

    def streamIsCapturing(self, stream: int) -> bool:  # noqa: N802
        self._check()
        self._use(stream)
        return stream in self.capturing

    def eventRecord(self, event: int, stream: int) -> None:  # noqa: N802
        self._check()
        self._use(stream)
        if self.current != self.index:
            self.wrong.append("an event was recorded while another GPU was current")
        if stream == PER_THREAD:
            self.wrong.append("an event was recorded on the stream of the thread that drops")
        self.recorded.append(stream)
        covered = [LEGACY, PER_THREAD] if stream == LEGACY else [stream]
        FakeEvent.made[event].needs = {each: len(self.queued[each]) for each in covered}
        FakeEvent.made[event].captured = stream in self.capturing

    def eventQuery(self, event: int) -> int:  # noqa: N802
        self._check()
        made = FakeEvent.made[event]
        if made.captured:
            return CAPTURED
        return 0 if all(self.passed[stream] >= count for stream, count in made.needs.items()) else NOT_READY

    def deviceSynchronize(self) -> None:  # noqa: N802
        self._check()
        if self.capturing:
            raise FakeError("cudaErrorStreamCaptureUnsupported")
        self.synchronized += 1
        for stream in self.queued:
            self.run(stream)

    def _check(self) -> None:
        if self.broken:
            raise FakeError("cudaErrorIllegalAddress")

    def _use(self, stream: int) -> None:
        if stream in self.destroyed:
            self.wrong.append(f"stream {stream} was used after it had been destroyed")


class FakeEvent:
    made: dict[int, FakeEvent]
    gpu: FakeGpu

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        assert (block, disable_timing) == (True, True)
        self.gpu._check()
        self.ptr = len(self.made) + 1
        self.made[self.ptr] = self
        self.needs: dict[int, int] = {}
        self.captured = False

    def synchronize(self) -> None:
        self.gpu._check()
        for stream, count in self.needs.items():
            self.gpu.passed[stream] = max(self.gpu.passed[stream], count)


class FakeArray(cupy.ndarray):
    """What a consumer makes of it keeps it, as a tensor of torch does. Asking for it is noted."""

    orders: list[Any]

    def __dlpack__(self, *, stream: Any, **options: Any) -> FakeArray:
        self.orders.append(stream)
        return self[:]

    def copy(self) -> FakeArray:
        memory = cupy.cuda.UnownedMemory(8192, self.nbytes, None, 0)
        return cupy.ndarray(self.shape, self.dtype, cupy.cuda.MemoryPointer(memory, 0))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": self.shape, "typestr": "|u1", "data": (self.data.ptr, False), "stream": 1}


class Memory:
    """A DALI tensor: giving it back while something reads it is what must not happen."""

    alive: int

    def __init__(self, gpu: FakeGpu) -> None:
        Memory.alive += 1
        self._gpu = gpu
        self.token = Token()
        self.__cuda_array_interface__ = {"typestr": "|u1"}

    def __del__(self) -> None:
        Memory.alive -= 1
        if self._gpu.is_read(self.token):
            self._gpu.wrong.append("memory went back while it was read")

    def shape(self) -> list[int]:
        return [4, 16, 24, 3]

    def data_ptr(self) -> int:
        return 4096


class Token:
    """Stands for memory in the queues of streams, which do not keep it."""


def install(patch: pytest.MonkeyPatch, gpu: FakeGpu) -> None:
    """Put the model in the place of the driver."""
    Memory.alive = 0
    FakeEvent.made, FakeEvent.gpu, FakeArray.orders = {}, gpu, []
    names = "getDevice", "setDevice", "streamIsCapturing", "eventRecord", "eventQuery", "deviceSynchronize"
    for name in names:
        patch.setattr(cupy.cuda.runtime, name, getattr(gpu, name))
    for name in ("ctxGetCurrent", "ctxSetCurrent"):
        patch.setattr(cupy.cuda.driver, name, getattr(gpu, name))
    patch.setattr(cupy.cuda, "Event", FakeEvent)
    patch.setattr(cupy.cuda, "get_current_stream", lambda _device=-1: gpu.current_stream)
    patch.setattr(cupy, "ndarray", FakeArray)
