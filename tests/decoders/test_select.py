"""The choice of decoder: once, with its reason, and errors that say what to do."""

from __future__ import annotations

import numpy as np
import pytest

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders import select
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.portions import PortionedDecoder
from datago_gpu.decoders.select import Backend, choose
from datago_gpu.errors import ConfigError
from tests.support.needs import needs

NO_DRIVER = "no CUDA driver (libcuda.so.1 not found)"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two GPUs and everything installed."""
    monkeypatch.setattr(select, "gpus", lambda: (2, ""))
    monkeypatch.setattr(select, "_installed", lambda _name: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return monkeypatch


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "gpus", lambda: (0, NO_DRIVER))


@pytest.mark.usefixtures("gpus")
def test_a_gpu_is_taken_where_there_is_one() -> None:
    assert choose() == Backend("dali", "cuda:0", 0, "the first of 2 GPUs")
    assert choose("cuda:1") == Backend("dali", "cuda:1", 1, "device='cuda:1' was requested")


def test_a_python_without_docstrings_cannot_use_dali(gpus: pytest.MonkeyPatch) -> None:
    gpus.setattr(select, "_without_docstrings", lambda: True)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(
            ConfigError, match=r"cannot be used: DALI cannot be imported under -OO; DALI needs docstrings.* -OO"
        ):
            choose(device)
    with pytest.raises(ConfigError, match="backend 'dali' cannot be used: DALI needs docstrings"):
        choose("cpu", "dali")
    assert choose() == Backend("pillow", "cpu", reason="DALI cannot be imported under -OO")


class TorchDevice:
    """As torch.device: its text is what torch.device() takes."""

    def __str__(self) -> str:
        return "cuda:1"


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("device", ["cuda:1", 1, np.int64(1), TorchDevice()])
def test_a_device_may_be_a_number_or_an_object_of_a_framework(device: object) -> None:
    assert choose(device).device_id == 1


@pytest.mark.usefixtures("gpus")
def test_none_is_auto() -> None:
    assert choose(None, None) == choose()


@pytest.mark.usefixtures("gpus")
def test_a_device_of_torch_is_taken() -> None:
    torch = needs("torch")
    assert choose(torch.device("cpu")) == choose(torch.device("cpu", 1)) == choose("cpu")
    assert choose(torch.device("cuda")) == choose("cuda")
    assert choose(torch.device("cuda", 1)) == choose("cuda:1")


@pytest.mark.parametrize("device", [True, -1, 1.5, "gpu", b"cpu", ["cuda"]])
def test_what_names_no_device_is_refused_with_what_does(device: object) -> None:
    with pytest.raises(ConfigError, match=r"^device must be 'auto', 'cpu', 'cuda', 'cuda:INDEX' or INDEX, got "):
        choose(device)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_local_rank_names_the_gpu(gpus: pytest.MonkeyPatch, device: str) -> None:
    gpus.setenv("LOCAL_RANK", "3")
    assert choose(device) == Backend("dali", "cuda:1", 1, "LOCAL_RANK is 3 and there are 2 GPUs")
    assert choose("cuda:0").device_id == 0


@pytest.mark.usefixtures("gpus")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'cuda:7' does not exist: there are 2 GPUs"):
        choose("cuda:7")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_falls_back_and_says_why() -> None:
    assert choose() == Backend("pillow", "cpu", reason=NO_DRIVER)
    assert choose("auto", "dali") == Backend("dali", "cpu", reason=f"{NO_DRIVER}; backend='dali' was requested")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_cuda_is_an_error_that_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"libcuda\.so\.1 not found.*nvidia-smi"):
        choose("cuda")


def test_what_is_not_installed_is_named_with_the_extra(gpus: pytest.MonkeyPatch) -> None:
    gpus.setattr(select, "_installed", lambda name: name != "cupy")
    assert choose() == Backend("pillow", "cpu", reason="cupy not installed")
    with pytest.raises(ConfigError, match=r"cupy not installed; pip install 'datago_gpu\[cuda12\]'"):
        choose("cuda")
    gpus.setattr(select, "_installed", lambda _name: False)
    with pytest.raises(ConfigError, match=r"nvidia.dali and cupy not installed"):
        choose("cuda:1")
    with pytest.raises(ConfigError, match=r"'dali' needs DALI.*pip install"):
        choose("cpu", "dali")


@pytest.mark.usefixtures("gpus")
def test_the_cpu_and_pillow_can_be_asked_for() -> None:
    assert choose("cpu") == Backend("pillow", "cpu", reason="device='cpu' was requested")
    assert choose("auto", "pillow") == Backend("pillow", "cpu", reason="backend='pillow' was requested")
    assert choose("cpu", "dali").name == "dali"


@pytest.mark.parametrize(
    ("device", "backend", "message"),
    [
        ("cuda", "pillow", "decodes on the CPU only"),
        ("gpu", "auto", "device must be"),
        ("cuda:", "auto", "device must be"),
        ("cpu", "opencv", "backend must be"),
    ],
)
def test_what_cannot_work_is_refused(device: str, backend: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(device, backend)


def test_this_machines_own_answer_is_consistent() -> None:
    count, missing = select.gpus()
    assert bool(count) != bool(missing)


def test_decoders_are_made_by_the_choice() -> None:
    for name in ("pillow", "dali"):
        decoder = make_decoder(choose("cpu", name), ImageConfig(), DecodeConfig(threads=1, prefetch=3), 4)
        inner = decoder._inner if isinstance(decoder, PortionedDecoder) else decoder
        assert type(inner).__name__.lower() == f"{name}decoder"
        assert decoder.depth == 3
        decoder.close()
