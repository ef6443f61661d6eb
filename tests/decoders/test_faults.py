"""What becomes of a batch when DALI fails, by what DALI says. DALI itself is replaced, below dali_pipeline.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders import dali, dali_pipeline
from datago_gpu.decoders.dali import DaliDecoder
from datago_gpu.decoders.device import DeviceArray
from datago_gpu.decoders.faults import Refused, Setup, classify_error, clean_message
from datago_gpu.errors import DatagoError
from tests.decoders.fakecuda import FakeGpu, FakeStream, Memory, install
from tests.support.pictures import batch, encode, picture

JPEG = encode(picture(40, 64), "JPEG")
TRACE = """Critical error in pipeline:
Error in {} operator `nvidia.dali.fn.{}`,
which was used in the pipeline definition with the following traceback:

  File "pipeline.py", line 9, in _graph

encountered:

{}
Current pipeline object is no longer valid."""


def decoding(said: str) -> RuntimeError:
    return RuntimeError(TRACE.format("Mixed", "decoders.image", said))


REFUSAL = "Failed to decode sample #1 : "
MEMORY = [
    MemoryError("std::bad_alloc"),
    decoding("Can't allocate 2147483648 bytes on device 0."),
    decoding("CUDA allocation failed"),
    decoding("nvImageCodec failure: '#5'"),
    RuntimeError(TRACE.format("GPU", "resize", "std::bad_alloc")),
    RuntimeError("CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY (2):\nout of memory"),
]
CUDA = [
    decoding("CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access was encountered"),
    RuntimeError("cudaErrorLaunchFailure: unspecified launch failure"),
    RuntimeError(TRACE.format("Mixed", "decoders.image", "nvImageCodec failure: '#6'")),
    RuntimeError("CUDA driver API error CUDA_ERROR_UNKNOWN (999)"),
]
ABOUT_AN_IMAGE = {REFUSAL: 1, "Failed to decode sample #12 : name.jpg": 12, "nvImageCodec failure: '#4'": None}


def setup(device_id: int | None) -> Setup:
    return Setup(ImageConfig(crop_and_resize=True), DecodeConfig(), 8, device_id, "", 2)


@pytest.mark.parametrize("device_id", [None, 1])
@pytest.mark.parametrize("said", ABOUT_AN_IMAGE)
def test_what_is_about_an_image(said: str, device_id: int | None) -> None:
    problem = classify_error(decoding(said), "decode", setup(device_id))
    assert isinstance(problem, Refused)
    assert problem.suspect == ABOUT_AN_IMAGE[said]


@pytest.mark.parametrize("device_id", [None, 1])
@pytest.mark.parametrize("error", MEMORY, ids=clean_message)
def test_what_is_about_memory_names_the_settings(error: Exception, device_id: int | None) -> None:
    problem = classify_error(error, "decode a batch", setup(device_id))
    assert isinstance(problem, DatagoError)
    assert str(problem).startswith(f"memory ran out{'' if device_id is None else ' on cuda:1'}: DALI could not decode")
    for name in ("batch_size (now 8)", "default_image_size (now ", "prefetch (now 2", "max_pixels (now 100000000"):
        assert name in str(problem)
    assert ("torch keeps the memory that it has freed" in str(problem)) == (device_id is not None)


@pytest.mark.parametrize("error", CUDA, ids=clean_message)
def test_what_is_about_the_gpu_blames_no_image(error: Exception) -> None:
    problem = classify_error(error, "decode a batch", setup(1))
    assert isinstance(problem, DatagoError)
    assert str(problem).startswith("CUDA failed on cuda:1: DALI could not decode a batch (")
    assert "This is not the fault of an image" in str(problem)


def test_anything_else_is_told_as_it_is() -> None:
    problem = classify_error(
        RuntimeError(TRACE.format("CPU", "resize", "Assert failed")), "decode a batch", setup(None)
    )
    assert isinstance(problem, DatagoError)
    assert str(problem) == "DALI could not decode a batch: Assert failed"


class Record:
    """What one pipeline was given, and whether it is still there."""

    def __init__(self) -> None:
        self.fed: list[list[bytes]] = []
        self.is_open = True


class FakeDali:
    """A pipeline of DALI's: gives black images, or raises what the script of the test says."""

    made: list[Record]
    script: list[Exception | None]
    """For each call of `outputs`, of all pipelines; then it goes well."""
    build_problem: Exception | None

    def __init__(self, gpu: FakeGpu | None) -> None:
        assert not any(record.is_open for record in FakeDali.made), "both take threads, and memory of the GPU"
        self.gpu, self.sizes, self.record = gpu, [], Record()
        FakeDali.made.append(self.record)

    def build(self) -> None:
        if FakeDali.build_problem:
            raise FakeDali.build_problem

    def feed_input(self, name: str, values: Any) -> None:
        if name == "payloads":
            self.record.fed.append([bytes(np.asarray(values.at(row))) for row in range(len(values))])

    def schedule_run(self) -> None:
        self.sizes.append(len(self.record.fed[-1]))

    def outputs(self, cuda_stream: int | None = None) -> tuple[Any]:
        assert (cuda_stream is None) == (self.gpu is None)
        if problem := FakeDali.script.pop(0) if FakeDali.script else None:
            raise type(problem)(*problem.args)  # one whose traceback nobody else keeps
        count = self.sizes.pop(0)
        tensor = np.zeros((count, 24, 40, 3), np.uint8) if self.gpu is None else Memory(self.gpu)
        return (SimpleNamespace(as_tensor=lambda: tensor),)

    def __del__(self) -> None:
        self.record.is_open = False


@pytest.fixture(params=[None, 0], ids=["cpu", "gpu"])
def device_id(request: pytest.FixtureRequest) -> int | None:
    chosen: int | None = request.param
    return chosen


@pytest.fixture
def make(device_id: int | None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DaliDecoder]:
    """`make(*script)`: a decoder on a scripted DALI; nvImageCodec finds no image bad."""

    def make(*script: Exception | None) -> DaliDecoder:
        gpu = None
        if device_id is not None:
            gpu = FakeGpu(device_id)
            install(monkeypatch, gpu)
            monkeypatch.setattr(dali_pipeline, "_stream", lambda _: FakeStream(gpu))
        FakeDali.made, FakeDali.script, FakeDali.build_problem = [], list(script), None
        monkeypatch.setattr(dali_pipeline, "define", lambda _: FakeDali(gpu))
        monkeypatch.setattr(dali, "find_undecodable", lambda *_: [])
        image = ImageConfig(crop_and_resize=True)
        return DaliDecoder(image, DecodeConfig(threads=2), batch_size=8, device_id=device_id)

    return make


def submit(decoder: DaliDecoder, count: int = 3) -> None:
    decoder.submit(batch(count * [JPEG], count * [(40, 64)], (24, 40)))


def pillow_rendered(payloads: list[bytes]) -> list[bool]:
    return [payload.startswith(b"P6") for payload in payloads]


def test_a_batch_is_fed_and_handed_out(make: Callable[..., DaliDecoder], device_id: int | None) -> None:
    decoder = make()
    submit(decoder)
    submit(decoder, 2)
    assert FakeDali.made[0].fed == [3 * [JPEG], 2 * [JPEG]]
    decoded = [decoder.collect() for _ in range(2)]
    assert [type(each.image) for each in decoded] == 2 * [np.ndarray if device_id is None else DeviceArray]
    assert [(each.failures, each.rescued) for each in decoded] == 2 * [({}, {})]
    decoder.close()


@pytest.mark.parametrize("error", [*MEMORY[:2], CUDA[0]], ids=clean_message)
def test_a_fault_that_no_image_is_to_blame_for_ends_the_run(make: Callable[..., DaliDecoder], error: Exception) -> None:
    decoder = make(error)
    submit(decoder)
    submit(decoder)
    with pytest.raises(DatagoError, match=r"memory ran out|CUDA failed|DALI could not"):
        decoder.collect()
    assert len(FakeDali.made) == 1, "no other pipeline is tried, and nothing is given to Pillow"
    with pytest.raises(RuntimeError, match="closed, or has failed"):
        submit(decoder)
    decoder.close()


def test_the_image_that_dali_names_goes_to_pillow(make: Callable[..., DaliDecoder]) -> None:
    decoder = make(decoding(REFUSAL))
    submit(decoder)
    submit(decoder, 2)
    first, second = decoder.collect(), decoder.collect()
    assert first.rescued == {1: "Failed to decode"}
    assert (first.failures, second.failures, second.rescued) == ({}, {}, {})
    assert len(FakeDali.made) == 2
    assert list(map(pillow_rendered, FakeDali.made[1].fed)) == [[False, True, False], [False, False]]


def test_all_go_to_pillow_where_dali_refuses_again(make: Callable[..., DaliDecoder]) -> None:
    decoder = make(decoding(REFUSAL), decoding("Failed to decode sample #0 : "))
    submit(decoder)
    decoded = decoder.collect()
    assert (sorted(decoded.rescued), decoded.failures, len(FakeDali.made)) == ([0, 1, 2], {}, 3)
    assert pillow_rendered(FakeDali.made[2].fed[0]) == [True, True, True]


def test_refused_a_third_time_is_an_error(make: Callable[..., DaliDecoder]) -> None:
    decoder = make(*3 * [decoding(REFUSAL)])
    submit(decoder)
    with pytest.raises(DatagoError, match="refuses 3 images that Pillow has decoded"):
        decoder.collect()


def test_memory_may_run_out_while_a_batch_is_rescued(make: Callable[..., DaliDecoder]) -> None:
    decoder = make(decoding(REFUSAL), MEMORY[1])
    submit(decoder)
    with pytest.raises(DatagoError, match="memory ran out"):
        decoder.collect()
    decoder.close()


def test_a_pipeline_that_cannot_be_made_again_says_why(make: Callable[..., DaliDecoder]) -> None:
    decoder = make(decoding(REFUSAL))
    submit(decoder)
    FakeDali.build_problem = RuntimeError("CUDA allocation failed")
    with pytest.raises(DatagoError, match=r"memory ran out.*could not be set up"):
        decoder.collect()
    decoder.close()


def test_a_batch_that_cannot_be_fed_says_why(make: Callable[..., DaliDecoder], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make()

    def refuse(*_: Any) -> None:
        raise ValueError("too many samples")

    monkeypatch.setattr(FakeDali, "feed_input", refuse)
    with pytest.raises(DatagoError, match="could not take a batch of 3 images: too many samples"):
        submit(decoder)
    decoder.close()


@pytest.mark.parametrize("under_way", [0, 1, 2])
@pytest.mark.parametrize("script", [(), (decoding(REFUSAL),), (MEMORY[1],)], ids=["fine", "rescued", "failed"])
def test_close_is_possible_in_every_state(
    make: Callable[..., DaliDecoder], under_way: int, script: tuple[Exception, ...]
) -> None:
    decoder = make(*script)
    for _ in range(2):
        submit(decoder)
    for _ in range(2 - under_way):
        try:
            decoder.collect()
        except DatagoError:
            break
    decoder.close()
    decoder.close()
    assert not any(record.is_open for record in FakeDali.made)
    with pytest.raises(RuntimeError, match="closed"):
        submit(decoder)
    with pytest.raises(RuntimeError, match="no batch is under way"):
        decoder.collect()
