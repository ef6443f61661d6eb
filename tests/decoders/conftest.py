"""The same tests on every back end: Pillow, DALI on the CPU, and DALI on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import Decoder
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import Backend
from tests.support.gpus import usable

MakeDecoder = Callable[..., Decoder]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Where DALI decodes. Without a GPU, "cuda" skips, and fails under DATAGO_GPU_REQUIRE_CUDA=1."""
    return usable(request.param)


@pytest.fixture
def make() -> Iterator[MakeDecoder]:
    """`make(backend, target=..., depth=..., **image settings)`; what it makes is closed after the test."""
    made: list[Decoder] = []

    def make(backend: Backend, *, crop: bool = True, batch_size: int = 16, depth: int = 2, **settings: Any) -> Decoder:
        image = ImageConfig(crop_and_resize=crop, **{name: settings.pop(name) for name in _IMAGE & set(settings)})
        decode = DecodeConfig(prefetch=depth, **({"threads": 2} | settings))
        made.append(make_decoder(backend, image, decode, batch_size))
        return made[-1]

    yield make
    for decoder in made:
        decoder.close()


_IMAGE = {"layout", "dtype", "mean", "std", "flip"}
