"""What `datago-gpu doctor` says of drivers, GPUs and nvJPEG, on machines that are made up: there is no GPU here."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datago_gpu.doctor import gpu

CUDA_12 = ("nvidia-dali-cuda120", "nvidia-nvimgcodec-cu12")
CUDA_13 = ("nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13")


class Packages:
    """The installed packages, for the doctor to find. `add` writes one, with a file if it holds any."""

    PackageNotFoundError = metadata.PackageNotFoundError

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, *, file: str = "", linked_to: Path | None = None) -> None:
        info = self._folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{file},,\n" if file else "")
        if linked_to:
            (self._folder / file).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / file).symlink_to(linked_to)

    def distribution(self, name: str) -> metadata.Distribution:
        found = next(iter(metadata.distributions(name=name, path=[str(self._folder)])), None)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    def version(self, name: str) -> str:
        return self.distribution(name).version


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """No package at all, to begin with."""
    made = Packages(tmp_path)
    monkeypatch.setattr(gpu, "metadata", made)
    return made


@pytest.mark.parametrize(
    ("installed", "version", "state", "remedy"),
    [
        (CUDA_12, "580.65.06", "ok", ""),
        (CUDA_12, "530.30.02", "ok", ""),
        (CUDA_12, "525.60.13", "fail", "install 530 or newer, which nvidia-dali-cuda120 needs"),
        (CUDA_13, "580.65.06", "ok", ""),
        (
            CUDA_13,
            "570.86.10",
            "fail",
            "install 580 or newer, which nvidia-dali-cuda130 needs, or use datago_gpu[cuda12]",
        ),
        (CUDA_12 + CUDA_13, "570.86.10", "fail", "install 580 or newer"),
        ((), "570.86.10", "ok", ""),
        (CUDA_12, "", "warn", "check nvidia-smi: nvidia-dali-cuda120 needs 530 or newer"),
    ],
)
def test_the_oldest_driver_is_that_of_the_build_of_dali(
    packages: Packages, installed: tuple[str, ...], version: str, state: str, remedy: str
) -> None:
    for name in installed:
        packages.add(name)
    check = gpu.driver_version(version, "12.8")
    assert (check.name, check.state) == ("NVIDIA driver", state)
    assert check.remedy.startswith(remedy)


@pytest.fixture
def real_nvjpeg() -> Path:
    """The library that came with DALI for the tests."""
    files = metadata.distribution("nvidia-nvjpeg-cu12").files or []
    return Path(str(next(file.locate() for file in files if file.name == "libnvjpeg.so.12")))


def test_nvjpeg_of_cuda_13_alone_is_fine_with_the_build_for_cuda_13(packages: Packages, real_nvjpeg: Path) -> None:
    packages.add("nvidia-nvimgcodec-cu13")
    packages.add("nvidia-nvjpeg", file="nvidia/cu13/lib/libnvjpeg.so.13", linked_to=real_nvjpeg)
    (check,) = gpu.nvjpeg(needed=True)
    assert check.state == "ok", check
    assert "libnvjpeg.so.13 loads" in check.found


def test_nvjpeg_is_looked_for_where_the_build_for_cuda_12_finds_it(packages: Packages, real_nvjpeg: Path) -> None:
    packages.add("nvidia-nvimgcodec-cu12")
    packages.add("nvidia-nvjpeg-cu12", file="nvidia/nvjpeg/lib/libnvjpeg.so.12", linked_to=real_nvjpeg)
    (check,) = gpu.nvjpeg(needed=True)
    assert check.state == "ok", check
    assert "libnvjpeg.so.12 loads" in check.found


def test_a_missing_nvjpeg_is_named_with_the_package_that_brings_it(packages: Packages) -> None:
    packages.add("nvidia-nvimgcodec-cu13")
    (check,) = gpu.nvjpeg(needed=True)
    assert (check.state, check.remedy) == ("fail", "pip install nvidia-nvjpeg")
    assert "libnvjpeg.so.13" in check.found
    (check,) = gpu.nvjpeg(needed=False)
    assert check.state == "none"


def nvml(gpus: int) -> Any:
    """As nvidia-ml-py answers on a machine with two kinds of GPUs."""
    names = ["NVIDIA H200", "NVIDIA L4"][:gpus]
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.65.06",
        nvmlSystemGetCudaDriverVersion=lambda: 13000,
        nvmlDeviceGetCount=lambda: gpus,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetCudaComputeCapability=lambda index: (9, index),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=141 << 30),
        nvmlDeviceGetName=lambda index: names[index],
    )


def on_a_gpu_machine(monkeypatch: pytest.MonkeyPatch, count: int) -> dict[str, tuple[str, str, str]]:
    """Name -> state, finding and remedy of each check, where CUDA offers `count` GPUs."""
    monkeypatch.setattr(gpu, "gpus", lambda: (count, ""))
    return {check.name: (check.state, check.found, check.remedy) for check in gpu.checks(wanted=True)}


def test_driver_and_gpus_are_told_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(2))
    found = on_a_gpu_machine(monkeypatch, 2)
    assert found["NVIDIA driver"] == ("ok", "580.65.06, CUDA up to 13.0", "")
    assert found["GPU 0"] == ("ok", "NVIDIA H200, compute capability 9.0, 141.0 GiB", "")
    assert found["GPU 1"][1].startswith("NVIDIA L4")
    assert "CUDA" not in found
    assert "libnvcuvid" in found


def test_gpus_that_cuda_does_not_see_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(2))
    assert on_a_gpu_machine(monkeypatch, 1)["CUDA"][:2] == ("ok", "CUDA sees 1 of 2 GPUs")


def test_without_nvidia_ml_py_the_driver_is_told_by_its_kernel_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    module = tmp_path / "version"
    module.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:12:10 UTC 2025\n")
    monkeypatch.setattr(gpu, "_KERNEL_MODULE", module)
    found = on_a_gpu_machine(monkeypatch, 1)
    assert found["NVIDIA driver"][:2] == ("ok", "580.65.06, CUDA up to unknown")
    assert found["NVIDIA GPU"][0] == "warn"
    assert found["NVIDIA GPU"][2] == "pip install nvidia-ml-py"
    module.unlink()
    assert on_a_gpu_machine(monkeypatch, 1)["NVIDIA driver"][0] == "warn"


def test_an_error_of_nvml_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("Driver/library version mismatch")

    broken = nvml(1)
    broken.nvmlInit = refuse
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    state, found, remedy = on_a_gpu_machine(monkeypatch, 1)["NVIDIA GPU"]
    assert (state, remedy) == ("warn", "check nvidia-smi")
    assert "version mismatch" in found
