"""Checks the NVIDIA driver, its GPUs and the libraries of the GPU path, without starting CUDA."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from datago_gpu.decoders.select import gpus
from datago_gpu.doctor.check import Check, mib

__all__ = ["checks"]

_INSTALL = "pip install 'datago_gpu[cuda12]' (or [cuda13] for CUDA 13)"
_VIDEO = "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_UNKNOWN = "unknown"

_OLDEST_DRIVERS = {"nvidia-dali-cuda130": 580, "nvidia-dali-cuda120": 530}
"""DALI build -> oldest driver, by the documentation. For CUDA 13, DALI and CUDA require the same; for CUDA 12, DALI
requires 525.60 and nvImageCodec 530.30.02."""

_PACKAGES = [
    ("DALI", ["nvidia-dali-cuda120", "nvidia-dali-cuda130"]),
    ("cupy", ["cupy-cuda12x", "cupy-cuda13x", "cupy"]),
    ("nvImageCodec", ["nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13"]),
]
_NVJPEG = {
    "nvidia-nvimgcodec-cu12": ("libnvjpeg.so.12", "nvidia-nvjpeg-cu12"),
    "nvidia-nvimgcodec-cu13": ("libnvjpeg.so.13", "nvidia-nvjpeg"),
}
"""nvImageCodec build -> the library that it loads, and the package that contains the library."""


def checks(*, wanted: bool) -> Iterator[Check]:
    """Runs the checks of this module. wanted: a missing GPU is a failure."""
    count, problem = gpus()
    if count:
        yield from _driver_and_gpus(count)
    else:
        yield _missing("NVIDIA GPU", problem, wanted, "check that nvidia-smi lists a GPU here; docker run --gpus all")
    needed = wanted or count > 0
    for name, names in _PACKAGES:
        yield _package(name, names, needed)
    yield from nvjpeg(needed)
    if count:
        yield nvcuvid()


def _missing(name: str, problem: str, wanted: bool, remedy: str) -> Check:
    if wanted:
        return Check.fail(name, f"missing: {problem}", remedy)
    return Check.none(name, f"missing ({problem}): the CPU is used")


def _driver_and_gpus(count: int) -> Iterator[Check]:
    """Checks the driver and its GPUs. count: the number of GPUs that CUDA reports."""
    try:
        version, cuda, found = _ask_nvml()
    except Exception as error:  # NVML is missing or fails: nothing else depends on it
        yield driver_version(_version_of_the_module(), _UNKNOWN)
        remedy = "pip install nvidia-ml-py" if isinstance(error, ImportError) else "check nvidia-smi"
        yield Check.warn("NVIDIA GPU", f"{count}, of an unknown model: {error}", remedy)
        return
    yield driver_version(version, cuda)
    for index, gpu in enumerate(found):
        yield Check.ok(f"GPU {index}", gpu)
    if count != len(found):
        yield Check.ok("CUDA", f"CUDA sees {count} of {len(found)} GPUs")


def _ask_nvml() -> tuple[str, str, list[str]]:
    """Returns the driver's version, the newest CUDA version it supports, and a description of each GPU."""
    import pynvml

    pynvml.nvmlInit()
    cuda, found = pynvml.nvmlSystemGetCudaDriverVersion(), []
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(gpu)
        size = mib(pynvml.nvmlDeviceGetMemoryInfo(gpu).total)
        found.append(f"{pynvml.nvmlDeviceGetName(gpu)}, compute capability {major}.{minor}, {size}")
    return pynvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}", found


def _version_of_the_module() -> str:
    """Returns the version of the driver's kernel module, such as "580.65.06"; "" if it cannot be read."""
    try:
        found = re.search(r"\b\d{3,}\.[\d.]+", _KERNEL_MODULE.read_text())
    except OSError:
        return ""
    return found[0] if found else ""


def driver_version(version: str, cuda: str) -> Check:
    """Checks the driver's version. cuda: the newest CUDA version that the driver supports."""
    build = next(filter(_version_of, _OLDEST_DRIVERS), "nvidia-dali-cuda120")
    oldest, major = _OLDEST_DRIVERS[build], version.partition(".")[0]
    found = f"{version or 'of unknown version'}, CUDA up to {cuda}"
    if not major.isdecimal():
        return Check.warn("NVIDIA driver", found, f"check nvidia-smi: {build} needs {oldest} or newer")
    if int(major) < oldest:
        other = ", or use datago_gpu[cuda12]" if build == "nvidia-dali-cuda130" else ""
        return Check.fail("NVIDIA driver", found, f"install {oldest} or newer, which {build} needs{other}")
    return Check.ok("NVIDIA driver", found)


def _version_of(distribution: str) -> str:
    """Returns the version of a package; "" if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _package(name: str, distributions: list[str], needed: bool) -> Check:
    for distribution in filter(_version_of, distributions):
        return Check.ok(name, f"{_version_of(distribution)} ({distribution})")
    return _missing(name, "not installed", needed, _INSTALL)


def nvjpeg(needed: bool) -> Iterator[Check]:
    """Checks nvJPEG, which decodes JPEGs on a GPU, for each installed build of nvImageCodec."""
    for codec in filter(_version_of, _NVJPEG):
        yield _nvjpeg(*_NVJPEG[codec], needed)


def _nvjpeg(library: str, package: str, needed: bool) -> Check:
    path = library
    if _version_of(package):
        wheel = metadata.distribution(package)
        path = next((str(wheel.locate_file(file)) for file in wheel.files or () if file.name == library), library)
    try:
        loaded = ctypes.CDLL(path)
        numbers = [ctypes.c_int() for _ in range(3)]
        for kind, number in enumerate(numbers):
            loaded.nvjpegGetProperty(kind, ctypes.byref(number))
    except (OSError, AttributeError) as error:
        return _missing("nvJPEG", f"{library} cannot be loaded ({error})", needed, f"pip install {package}")
    return Check.ok("nvJPEG", f"{'.'.join(str(number.value) for number in numbers)}, {library} loads")


def nvcuvid() -> Check:
    """Checks nvcuvid, which gives access to the hardware JPEG decoder."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return Check.warn("libnvcuvid", "libnvcuvid.so.1 not found: no hardware JPEG decoder", _VIDEO)
    return Check.ok("libnvcuvid", "libnvcuvid.so.1 loads")
