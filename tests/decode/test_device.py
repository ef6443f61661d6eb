"""The end of a batch on the GPU: its memory waits for the streams that read it.

With a stand-in for cupy, since what has to hold is the order of calls; the tests marked `cuda` see the real one.
"""

from __future__ import annotations

import gc
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datago_gpu.decode.device import DeviceArray, Parking, require_cupy
from datago_gpu.errors import ConfigError


class FakeCuda:
    """Records events and says of each stream whether its work is done."""

    def __init__(self) -> None:
        self.busy: set[int] = set()
        self.recorded: list[int] = []
        self.gone: set[int] = set()
        self.synchronized = 0
        cuda = SimpleNamespace(
            Device=self._device,
            Event=self._event,
            ExternalStream=lambda handle, _device: handle,
            UnownedMemory=lambda _pointer, _size, owner, _device: SimpleNamespace(owner=owner),
            MemoryPointer=lambda memory, _offset: memory,
            runtime=SimpleNamespace(CUDARuntimeError=FakeCudaError),
            get_current_stream=lambda: SimpleNamespace(ptr=0),
        )
        self.module = ModuleType("cupy")
        self.module.cuda = cuda
        self.module.ndarray = FakeArray

    def _device(self, _index: int) -> Any:
        fake = self

        class Device:
            def __enter__(self) -> None: ...
            def __exit__(self, *_: object) -> None: ...
            def synchronize(self) -> None:
                fake.synchronized += 1

        return Device()

    def _event(self, disable_timing: bool) -> Any:
        assert disable_timing
        fake = self

        class Event:
            def record(self, stream: int) -> None:
                if stream in fake.gone:
                    raise FakeCudaError
                self.stream = stream
                fake.recorded.append(stream)

            @property
            def done(self) -> bool:
                return self.stream not in fake.busy

            def synchronize(self) -> None:
                fake.busy.discard(self.stream)

        return Event()


class FakeCudaError(Exception): ...


class FakeArray:
    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], memory: Any) -> None:
        self.shape, self.dtype, self.memory = shape, dtype, memory

    def __getitem__(self, _index: int) -> FakeArray:
        return FakeArray(self.shape[1:], self.dtype, self.memory)

    def __dlpack__(self, *, stream: int | None, **_options: Any) -> FakeArray:
        return self  # as a consumer's tensor does, it keeps the memory

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class Tensor:
    """A DALI tensor of which one can tell when it was given back."""

    alive = 0

    def __init__(self) -> None:
        Tensor.alive += 1
        self.__cuda_array_interface__ = {"typestr": "|u1"}

    def __del__(self) -> None:
        Tensor.alive -= 1

    def shape(self) -> list[int]:
        return [4, 16, 24, 3]

    def data_ptr(self) -> int:
        return 4096


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cupy", fake.module)
    Tensor.alive = 0
    return fake


@pytest.mark.usefixtures("cuda")
def test_it_says_what_it_is() -> None:
    image = Parking(0).lend(Tensor())
    assert (image.shape, image.dtype, image.device, len(image)) == ((4, 16, 24, 3), np.uint8, "cuda:0", 4)
    assert repr(image) == "DeviceArray(shape=(4, 16, 24, 3), dtype=uint8, device='cuda:0')"
    assert isinstance(image[1], DeviceArray)
    assert image[1].shape == (16, 24, 3)
    assert image.__dlpack_device__() == (2, 0)


def test_memory_waits_for_the_stream_that_it_was_exported_to(cuda: FakeCuda) -> None:
    parking = Parking(0)
    image = parking.lend(Tensor())
    tensor = image.__dlpack__(stream=77, max_version=(1, 0))
    del image
    assert (Tensor.alive, cuda.recorded) == (1, [])  # the consumer's tensor still reads it
    cuda.busy = {77}
    del tensor
    gc.collect()
    assert sorted(cuda.recorded) == [1, 2, 77]
    parking.sweep()
    assert Tensor.alive == 1
    cuda.busy = set()
    parking.sweep()
    assert Tensor.alive == 0


@pytest.mark.usefixtures("cuda")
def test_one_image_of_a_batch_keeps_it() -> None:
    parking = Parking(0)
    batch = parking.lend(Tensor())
    image = batch[2]
    del batch
    parking.sweep()
    assert Tensor.alive == 1
    del image
    parking.sweep()
    assert Tensor.alive == 0


def test_a_stream_that_is_gone_is_waited_for_with_the_device(cuda: FakeCuda) -> None:
    parking = Parking(0)
    parking.lend(Tensor()).__dlpack__(stream=77)
    cuda.gone = {77}
    image = parking.lend(Tensor())
    image.__dlpack__(stream=77)
    del image
    assert cuda.synchronized == 1
    parking.sweep()
    assert Tensor.alive == 0


def test_close_waits_and_later_ends_wait_for_themselves(cuda: FakeCuda) -> None:
    parking = Parking(0)
    early, late = parking.lend(Tensor()), parking.lend(Tensor())
    cuda.busy = {1}
    del early
    parking.close()
    assert Tensor.alive == 1
    cuda.busy = {1}
    del late
    assert Tensor.alive == 0
    parking.close()


def test_without_cupy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ConfigError, match=r"pip install 'datago_gpu\[cuda12\]'"):
        require_cupy()
