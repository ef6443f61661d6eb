"""The real cupy has every name, keyword and object that the GPU path uses, and deprecates none of them.

Needs no driver: cupy imports and makes these objects without one. What asks the driver must fail for that alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cupy
import numpy as np
import pytest

from datago_gpu.decoders import device, parking
from datago_gpu.decoders import placement as place
from datago_gpu.decoders.select import choose

SOURCES = "\n".join(Path(str(module.__file__)).read_text() for module in (device, parking, place))


no_gpu = pytest.mark.skipif(
    choose().device_id is not None, reason="there is a GPU: it would be used wrongly here, and other tests use it"
)


def without_a_driver(do: Callable[[], object]) -> None:
    """Call something that wants a GPU: a name or a keyword that is gone, or a deprecation, is raised all the same."""
    try:
        do()
    except RuntimeError as error:
        if not re.search(r"driver|libcuda\.so", str(error)):
            raise


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b_?cupy((?:\.[A-Za-z_]+)+)", SOURCES))))
def test_the_name_exists(name: str) -> None:
    assert reduce(getattr, name.strip(".").split("."), cupy)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bruntime\.([A-Za-z_]+)", SOURCES))))
def test_the_function_of_the_runtime_exists(name: str) -> None:
    assert callable(getattr(cupy.cuda.runtime, name))


CALLS: dict[str, Callable[[], object]] = {
    "the current GPU": lambda: cupy.cuda.runtime.getDevice(),
    "another one": lambda: cupy.cuda.runtime.setDevice(0),
    "its context": lambda: cupy.cuda.driver.ctxGetCurrent(),
    "the context again": lambda: cupy.cuda.driver.ctxSetCurrent(0),
    "an event": lambda: cupy.cuda.Event(block=True, disable_timing=True),
    "an event on a stream": lambda: cupy.cuda.runtime.eventRecord(0, parking.LEGACY_STREAM),
    "whether an event has passed": lambda: cupy.cuda.runtime.eventQuery(0),
    "whether a stream captures": lambda: cupy.cuda.runtime.streamIsCapturing(parking.LEGACY_STREAM),
    "all of the GPU": lambda: cupy.cuda.runtime.deviceSynchronize(),
    "the current stream": lambda: cupy.cuda.get_current_stream(0),
    "a stream": lambda: cupy.cuda.Stream(non_blocking=True),
    "pinned memory": lambda: cupy.cuda.alloc_pinned_memory(16),
    "an empty array": lambda: cupy.empty((2, 3), np.dtype(np.uint8)),
}


@no_gpu
@pytest.mark.filterwarnings("ignore:.*Stream.__del__:pytest.PytestUnraisableExceptionWarning")  # one that was not made
@pytest.mark.parametrize("call", CALLS)
def test_the_call_is_accepted(call: str) -> None:
    without_a_driver(CALLS[call])


@pytest.fixture
def array() -> Any:
    """As `device._view` makes arrays. Its memory is nobody's: it must not be read."""
    return device._view(SimpleNamespace(parking=SimpleNamespace(device_id=0)), 4096, (4, 16, 24, 3), np.dtype("u1"))


@pytest.mark.parametrize("typestr", ["|u1", "=B", "=e", "=f", "<f2", "<f4"])
def test_the_types_that_dali_names_are_known(typestr: str) -> None:
    assert device._dtype(SimpleNamespace(__cuda_array_interface__={"typestr": typestr})).itemsize in (1, 2, 4)


def test_arrays_over_foreign_memory_are_made_and_cut(array: Any) -> None:
    assert (array.shape, array.dtype, array.data.ptr) == ((4, 16, 24, 3), np.uint8, 4096)
    assert (array[1].shape, array[1].data.ptr) == ((16, 24, 3), 4096 + 16 * 24 * 3)
    assert (array[1:3].shape, array[2:].data.ptr) == ((2, 16, 24, 3), 4096 + 2 * 16 * 24 * 3)
    assert array.nbytes == 4 * 16 * 24 * 3
    with pytest.raises(IndexError):
        array[4]


def test_an_array_keeps_the_owner_of_its_memory() -> None:
    class Owner:
        alive = 1

        def __init__(self) -> None:
            self.parking = SimpleNamespace(device_id=0)

        def __del__(self) -> None:
            Owner.alive = 0

    part = device._view(Owner(), 4096, (2, 3), np.dtype("f4"))[1]
    assert Owner.alive == 1
    del part
    assert Owner.alive == 0


@no_gpu
@pytest.mark.parametrize("do", ["export", "copy", "interface", "host"])
def test_arrays_are_handed_over(array: Any, do: str) -> None:
    ways: dict[str, Callable[[], object]] = {
        "export": lambda: array.__dlpack__(stream=-1, max_version=(1, 0), dl_device=(2, 0), copy=None),
        "copy": lambda: array.copy(),
        "interface": lambda: array.__cuda_array_interface__,
        "host": lambda: array.get(),
    }
    without_a_driver(ways[do])
