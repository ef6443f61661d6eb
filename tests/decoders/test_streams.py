"""Batches on a real GPU, read on streams of every kind: how their memory is waited for."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from datago_gpu.decoders.decoder import Decoder
from datago_gpu.decoders.select import choose
from tests.decoders.conftest import MakeDecoder
from tests.support.gpus import usable
from tests.support.needs import needs
from tests.support.pictures import decode, on_host, pictures

pytestmark = pytest.mark.cuda


@pytest.fixture
def decoder(make: MakeDecoder) -> Iterator[Decoder]:
    return make(choose(usable("cuda"), "dali"))


def image_of(decoder: Decoder) -> Any:
    return decode(decoder, pictures(4, (24, 32))).image


def read_by_cupy(image: Any) -> None:
    import cupy

    with cupy.cuda.Stream(non_blocking=True):
        assert cupy.from_dlpack(image).shape == (4, 24, 32, 3)


def read_by_torch(image: Any) -> None:
    torch = needs("torch")
    with torch.cuda.stream(torch.cuda.Stream()):
        assert torch.from_dlpack(image).shape == (4, 24, 32, 3)


def read_by_torch_on_a_foreign_stream(image: Any) -> None:
    import cupy

    torch = needs("torch")
    stream = cupy.cuda.Stream(non_blocking=True)
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        assert torch.from_dlpack(image).shape == (4, 24, 32, 3)


def read_by_interface(image: Any) -> None:
    import cupy

    assert cupy.asarray(image).shape == (4, 24, 32, 3)


@pytest.mark.parametrize(
    ("read", "synchronized"),
    [(read_by_cupy, 0), (read_by_torch, 0), (read_by_torch_on_a_foreign_stream, 1), (read_by_interface, 1)],
)
def test_memory_goes_back_after_it_was_read(
    decoder: Any, monkeypatch: pytest.MonkeyPatch, read: Any, synchronized: int
) -> None:
    """Only where the reader is not known, the whole GPU is waited for."""
    import cupy

    waits: list[int] = []
    runtime = cupy.cuda.runtime
    wait = runtime.deviceSynchronize
    monkeypatch.setattr(runtime, "deviceSynchronize", lambda: waits.append(wait()))
    image = image_of(decoder)
    read(image)  # the stream of cupy that it used is gone by now
    del image
    gc.collect()
    assert decoder._parking.count == 1
    cupy.cuda.Device().synchronize()
    decoder._parking.sweep()
    assert (decoder._parking.count, len(waits)) == (0, synchronized)


def test_torch_takes_a_copy(decoder: Decoder) -> None:
    torch = needs("torch")
    image = image_of(decoder)
    copied = torch.from_dlpack(image, copy=True)
    assert copied.data_ptr() != torch.from_dlpack(image).data_ptr()
    assert np.array_equal(copied.cpu().numpy(), on_host(image))


def test_numpy_takes_a_copy_on_the_host(decoder: Decoder) -> None:
    image = image_of(decoder)
    assert np.array_equal(np.from_dlpack(image, device="cpu", copy=True), on_host(image))
