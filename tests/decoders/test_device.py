"""The end of a batch on the GPU: its memory waits for whatever reads it. On a model of a GPU; see fakecuda.py."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datago_gpu.decoders import parking as parking_module
from datago_gpu.decoders.device import DeviceArray, lend, lend_array, lend_list, on_host
from datago_gpu.decoders.parking import Parking, on_device, require_cupy
from datago_gpu.errors import ConfigError
from tests.decoders.fakecuda import LEGACY, PER_THREAD, FakeArray, FakeGpu, FakeStream, Memory, install


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    made = FakeGpu()
    install(monkeypatch, made)
    kept: list[Any] = []
    monkeypatch.setattr(parking_module, "_KEPT_FOR_EVER", kept)
    yield made
    assert made.wrong == []


def kept_for_ever() -> int:
    return len(parking_module._KEPT_FOR_EVER)


@pytest.mark.usefixtures("gpu")
def test_an_array_says_what_it_is() -> None:
    image = lend(Parking(0), Memory(FakeGpu()))
    assert (image.shape, image.dtype, image.device, len(image)) == ((4, 16, 24, 3), np.uint8, "cuda:0", 4)
    assert repr(image) == "DeviceArray(shape=(4, 16, 24, 3), dtype=uint8, device='cuda:0')"
    assert isinstance(image[1], DeviceArray)
    assert image[1].shape == (16, 24, 3)
    assert image.__dlpack_device__() == (2, 0)
    assert [each.shape for each in image] == 4 * [(16, 24, 3)]


def test_memory_waits_for_the_stream_that_it_was_exported_to(gpu: FakeGpu) -> None:
    parking, memory = Parking(0), Memory(gpu)
    gpu.current_stream = stream = FakeStream(gpu)
    image = lend(parking, memory)
    tensor = image.__dlpack__(stream=stream.ptr, max_version=(1, 0))
    gpu.read(memory.token, stream.ptr)
    del image, memory
    assert (Memory.alive, gpu.recorded) == (1, [])  # the consumer's tensor may still read it
    del tensor
    gc.collect()
    assert sorted(gpu.recorded) == [LEGACY, stream.ptr]
    parking.sweep()
    assert Memory.alive == 1
    gpu.run(stream.ptr)
    parking.sweep()
    assert (Memory.alive, gpu.synchronized) == (0, 0)


def test_no_stream_waits_for_another_when_a_batch_is_exported(gpu: FakeGpu) -> None:
    """Batches are complete. cupy would let the consumer's stream wait for all of the default stream."""
    image = lend(Parking(0), Memory(gpu))
    for stream in (None, LEGACY, PER_THREAD, -1, FakeStream(gpu).ptr):
        image.__dlpack__(stream=stream)
    assert FakeArray.orders == 5 * [-1]
    assert image.__cuda_array_interface__["stream"] is None


@pytest.mark.parametrize("stream", [None, 0, LEGACY, PER_THREAD])
def test_the_legacy_stream_stands_for_all_default_streams(gpu: FakeGpu, stream: int | None) -> None:
    """It waits for those of all threads; the one "per thread" would be that of the thread that drops the batch."""
    parking, memory = Parking(0), Memory(gpu)
    tensor = lend(parking, memory).__dlpack__(stream=stream)
    gpu.read(memory.token, stream or LEGACY)
    del tensor, memory
    parking.sweep()
    assert (gpu.recorded, gpu.synchronized, Memory.alive) == ([LEGACY], 0, 1)
    gpu.run(stream or LEGACY)
    parking.sweep()
    assert Memory.alive == 0


def test_a_stream_lives_for_as_long_as_memory_waits_for_it(gpu: FakeGpu) -> None:
    parking, memory = Parking(0), Memory(gpu)
    gpu.current_stream = FakeStream(gpu)
    handle = gpu.current_stream.ptr
    lend(parking, memory).__dlpack__(stream=handle)  # dropped again, with a stream that the caller then lets go
    del memory
    gpu.current_stream = SimpleNamespace(ptr=0)
    gc.collect()
    assert (handle in gpu.destroyed, parking.count) == (False, 1)
    parking.sweep()
    assert (handle in gpu.destroyed, parking.count, gpu.synchronized) == (True, 0, 0)


@pytest.mark.parametrize("stream_id", [3, None])
def test_streams_of_torch_are_known_unless_they_are_foreign(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, stream_id: int | None
) -> None:
    """The id of a foreign stream is its handle: whoever made it may destroy it."""
    handle = gpu.new_stream()
    current = SimpleNamespace(cuda_stream=handle, stream_id=stream_id or handle)
    cuda = SimpleNamespace(is_initialized=lambda: True, current_stream=lambda _device: current)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    parking, memory = Parking(0), Memory(gpu)
    tensor = lend(parking, memory).__dlpack__(stream=handle)
    gpu.read(memory.token, handle)
    del tensor, memory
    parking.sweep()
    assert (gpu.synchronized, Memory.alive) == ((0, 1) if stream_id else (1, 0))
    assert gpu.recorded == ([LEGACY, handle] if stream_id else [])
    gpu.run(handle)


@pytest.mark.parametrize("reader", ["a stream that nobody knows", "no order", "__cuda_array_interface__"])
def test_all_of_the_gpu_is_waited_for_where_the_reader_is_not_known(gpu: FakeGpu, reader: str) -> None:
    parking, memory, handle = Parking(0), Memory(gpu), gpu.new_stream()
    image = lend(parking, memory)
    if reader == "__cuda_array_interface__":
        assert image.__cuda_array_interface__["data"] == (4096, False)
    else:
        image.__dlpack__(stream=-1 if reader == "no order" else handle)
    gpu.read(memory.token, handle)
    del image, memory
    assert (gpu.synchronized, Memory.alive) == (0, 1), "whoever drops a batch does not wait"
    parking.sweep()
    assert (gpu.synchronized, Memory.alive) == (1, 0)


def test_waiting_for_the_gpu_may_fail_while_a_graph_is_captured(gpu: FakeGpu) -> None:
    parking, memory = Parking(0), Memory(gpu)
    lend(parking, memory).__dlpack__(stream=-1)
    gpu.read(memory.token, LEGACY)
    gpu.capturing = {gpu.new_stream()}
    del memory
    parking.sweep()
    assert (gpu.synchronized, Memory.alive) == (0, 1)
    gpu.capturing = set()
    parking.sweep()
    assert (gpu.synchronized, Memory.alive) == (1, 0)


@pytest.mark.parametrize("problem", [RuntimeError, DeprecationWarning, TypeError])
def test_memory_is_kept_whatever_goes_wrong_with_the_events(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, problem: type[Exception]
) -> None:
    def refuse(*_: Any) -> None:
        raise problem("not today")

    parking, memory = Parking(0), Memory(gpu)
    image = lend(parking, memory)
    gpu.read(memory.token, LEGACY)
    monkeypatch.setattr(require_cupy().cuda.runtime, "eventRecord", refuse)
    del image, memory
    assert (Memory.alive, gpu.synchronized) == (1, 0)
    parking.sweep()
    assert (Memory.alive, gpu.synchronized) == (0, 1)


def test_memory_is_kept_for_ever_where_cuda_fails(gpu: FakeGpu) -> None:
    parking, memory = Parking(0), Memory(gpu)
    image = lend(parking, memory)
    gpu.read(memory.token, LEGACY)
    gpu.broken = True
    del image, memory
    parking.sweep()
    assert (Memory.alive, parking.count) == (1, 1)
    parking.close()
    del parking
    gc.collect()
    assert (Memory.alive, kept_for_ever()) == (1, 1)
    gpu.run(LEGACY)


def test_a_batch_that_is_dropped_while_a_graph_is_captured_goes_back_later(gpu: FakeGpu) -> None:
    parking, memory = Parking(0), Memory(gpu)
    gpu.current_stream = FakeStream(gpu)
    image = lend(parking, memory)
    image.__dlpack__(stream=gpu.current_stream.ptr)
    gpu.capturing = {gpu.current_stream.ptr}
    del image, memory
    parking.sweep()
    assert (gpu.recorded, gpu.synchronized, Memory.alive) == ([], 0, 1), "either would break the capture"
    gpu.capturing = set()
    parking.sweep()
    assert (gpu.synchronized, Memory.alive) == (0, 0)


def test_a_batch_that_is_in_use_does_not_hold_up_later_ones(gpu: FakeGpu) -> None:
    parking, early, late = Parking(0), Memory(gpu), Memory(gpu)
    gpu.current_stream = slow = FakeStream(gpu)
    images = [lend(parking, early), lend(parking, late)]
    images[0].__dlpack__(stream=slow.ptr)
    gpu.read(early.token, slow.ptr)
    del images, early, late
    parking.sweep()
    assert (Memory.alive, parking.count) == (1, 1)
    gpu.run(slow.ptr)


def test_another_gpu_may_be_current_and_gets_no_context(gpu: FakeGpu) -> None:
    """Half a GB on GPU 0, for each rank that uses another one."""
    gpu.index, gpu.contexts, gpu.current = 1, set(), 0
    parking, memory = Parking(1), Memory(gpu)
    image = lend(parking, memory)
    gpu.current = 0  # as on the trainer's thread
    image.__dlpack__(stream=LEGACY)
    assert image.__cuda_array_interface__["version"] == 3
    del image, memory
    parking.sweep()
    parking.close()
    assert (gpu.contexts, Memory.alive) == ({1}, 0)


def test_a_thread_keeps_its_current_gpu(gpu: FakeGpu) -> None:
    gpu.contexts, gpu.current = {0, 1}, 0
    with on_device(1):
        assert gpu.current == 1
    with on_device(0):
        pass
    assert (gpu.current, gpu.switched) == (0, 1)


@pytest.mark.usefixtures("gpu")
def test_one_image_of_a_batch_keeps_the_batch() -> None:
    parking = Parking(0)
    batch = lend(parking, Memory(FakeGpu()))
    image = batch[2]
    del batch
    parking.sweep()
    assert Memory.alive == 1
    del image
    parking.sweep()
    assert Memory.alive == 0


def test_a_list_of_images_has_one_lease(gpu: FakeGpu) -> None:
    parking = Parking(0)
    images = lend_list(parking, [Memory(gpu) for _ in range(5)])
    assert [image.shape for image in images] == 5 * [(4, 16, 24, 3)]
    last = images.pop()
    del images
    assert (Memory.alive, gpu.recorded) == (5, [])
    del last
    assert gpu.recorded == [LEGACY]
    parking.sweep()
    assert Memory.alive == 0


def test_close_waits_and_batches_dropped_later_wait_for_themselves(gpu: FakeGpu) -> None:
    parking, tokens = Parking(0), []
    images = [lend(parking, Memory(gpu)) for _ in range(2)]
    for image in images:
        tokens.append(image._lease._memory.token)
        gpu.read(tokens[-1], LEGACY)
    images.pop(0)
    assert parking.count == 1
    parking.close()
    assert (Memory.alive, kept_for_ever()) == (1, 0)
    gpu.contexts, gpu.current = {0, 3}, 3
    gpu.read(tokens[1], LEGACY)
    images.clear()
    del image
    assert (Memory.alive, gpu.current) == (0, 3)
    parking.close()


def test_a_copy_is_ordered_by_streams_and_lives_as_long_as_its_readers(gpu: FakeGpu) -> None:
    parking = Parking(0)
    gpu.current_stream = FakeStream(gpu)
    image = lend(parking, Memory(gpu))
    handle = gpu.current_stream.ptr
    copied = image.__dlpack__(stream=handle, copy=True, max_version=(1, 0))
    assert FakeArray.orders == [handle], "unlike a batch, a copy is not complete"
    del image
    assert gpu.recorded == [LEGACY, handle]
    del copied
    assert gpu.recorded == 2 * [LEGACY, handle]


def test_an_array_of_cupy_is_lent_like_a_tensor(gpu: FakeGpu) -> None:
    parking, memory = Parking(0), Memory(gpu)
    image = lend_array(parking, lend(parking, memory)._array)
    assert image.shape == (4, 16, 24, 3)
    del image, memory
    for _ in range(2):
        parking.sweep()
    assert Memory.alive == 0


def test_arrays_of_numpy_are_on_the_host_already() -> None:
    pixels = np.zeros((2, 2), np.uint8)
    assert on_host(pixels) is pixels


def test_without_cupy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ConfigError, match=r"pip install 'datago_gpu\[cuda12\]'"):
        require_cupy()
