"""DALI and torch have the names that only the GPU path uses: nothing else would run them on a machine without a GPU."""

from __future__ import annotations

import inspect

import pytest
from nvidia.dali import tensors, types
from nvidia.dali.pipeline import Pipeline

from tests.support.needs import needs


@pytest.mark.parametrize("name", ["as_tensor", "__getitem__", "__len__"])
def test_lists_of_tensors_on_the_gpu(name: str) -> None:
    assert hasattr(tensors.TensorListGPU, name)


@pytest.mark.parametrize("name", ["data_ptr", "shape", "__cuda_array_interface__"])
def test_tensors_on_the_gpu(name: str) -> None:
    assert hasattr(tensors.TensorGPU, name)


def test_outputs_are_ordered_on_a_stream_that_is_given_by_its_handle() -> None:
    assert "cuda_stream" in inspect.signature(Pipeline.outputs).parameters
    assert types._raw_cuda_stream_ptr(4096).value == 4096


def test_streams_of_torch() -> None:
    torch = needs("torch")
    assert torch.cuda.is_initialized() in (False, True)
    assert "device" in inspect.signature(torch.cuda.current_stream).parameters
    assert hasattr(torch.cuda.Stream, "cuda_stream") or not torch.backends.cuda.is_built()
    assert hasattr(torch.Stream, "stream_id")
