"""Whether a test that wants a GPU can have one."""

from __future__ import annotations

import os

import pytest

from datago_gpu.decoders.select import choose
from datago_gpu.errors import ConfigError


def usable(device: str) -> str:
    """The device; without a GPU, "cuda" skips the test, and fails it under DATAGO_GPU_REQUIRE_CUDA=1."""
    if device == "cuda":
        try:
            choose("cuda", "dali")
        except ConfigError as problem:
            if os.environ.get("DATAGO_GPU_REQUIRE_CUDA") == "1":
                raise
            pytest.skip(str(problem))
    return device
