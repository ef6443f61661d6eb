"""The NVIDIA driver, its GPUs, and the libraries of the GPU path. Nothing of CUDA is started: only asked."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from datago_gpu.doctor.check import Check, mib

__all__ = ["checks"]

_OLDEST_DRIVER = 580
_INSTALL = "pip install 'datago_gpu[cuda12]' (or [cuda13] for CUDA 13)"
_VIDEO = "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""

_PACKAGES = [
    ("DALI", ["nvidia-dali-cuda120", "nvidia-dali-cuda130"]),
    ("cupy", ["cupy-cuda12x", "cupy-cuda13x", "cupy"]),
    ("nvImageCodec", ["nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13"]),
]


def checks(*, wanted: bool) -> Iterator[Check]:
    """wanted: without a GPU that is a failure."""
    count, driver, problem = _driver()
    if not count:
        yield _absent("NVIDIA GPU", problem, wanted, "check that nvidia-smi lists a GPU here; docker run --gpus all")
    elif driver is not None:
        yield driver_version(_version(), _cuda_version(driver))
        for index in range(count):
            yield _gpu(driver, index)
    needed = wanted or count > 0
    for name, names in _PACKAGES:
        yield _package(name, names, needed)
    yield nvjpeg(needed)
    if count:
        yield nvcuvid()


def _absent(name: str, problem: str, wanted: bool, remedy: str) -> Check:
    if wanted:
        return Check.fail(name, f"not here: {problem}", remedy)
    return Check.none(name, f"not here ({problem}): the CPU is used")


def _driver() -> tuple[int, ctypes.CDLL | None, str]:
    """How many GPUs there are, the driver's library, and why there are none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, None, "no CUDA driver, libcuda.so.1 not found"
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return 0, driver, f"the CUDA driver answers with error {status}"
    return count.value, driver, "the CUDA driver counts none"


def _cuda_version(driver: ctypes.CDLL) -> str:
    """The newest CUDA that the driver knows, such as "13.0"."""
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return "unknown"
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _version() -> str:
    """Of the driver, such as "580.65.06", from NVML, else from the kernel module; "" for unknown."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if not (nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, len(text))):
            return text.value.decode("ascii", "replace")
    except (OSError, AttributeError):
        pass
    try:
        found = re.search(r"\b\d{3,}\.[\d.]+", _KERNEL_MODULE.read_text())
    except OSError:
        return ""
    return found[0] if found else ""


def driver_version(version: str, cuda: str) -> Check:
    """version: of the driver; cuda: what it reaches up to."""
    major = version.partition(".")[0]
    found = f"{version or 'of unknown version'}, CUDA up to {cuda}"
    if not major.isdecimal():
        return Check.warn("NVIDIA driver", found, f"compare nvidia-smi: {_OLDEST_DRIVER} or newer is needed")
    if int(major) < _OLDEST_DRIVER:
        return Check.fail("NVIDIA driver", found, f"install {_OLDEST_DRIVER} or newer, as the CUDA wheels need")
    return Check.ok("NVIDIA driver", found)


def _gpu(driver: ctypes.CDLL, index: int) -> Check:
    device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    numbers = [ctypes.c_int(), ctypes.c_int()]
    status = driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceGetName(name, len(name), device)
    status = status or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    for number, attribute in zip(numbers, (_COMPUTE_MAJOR, _COMPUTE_MINOR), strict=True):
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    if status:
        return Check.fail(f"GPU {index}", f"the CUDA driver answers with error {status}", "look at nvidia-smi")
    capability = ".".join(str(number.value) for number in numbers)
    return Check.ok(f"GPU {index}", f"{name.value.decode('utf-8', 'replace')}, compute capability {capability}, "
                                    f"{mib(size.value)}")  # fmt: skip


def _package(name: str, distributions: list[str], needed: bool) -> Check:
    for distribution in distributions:
        try:
            return Check.ok(name, f"{metadata.version(distribution)} ({distribution})")
        except metadata.PackageNotFoundError:
            continue
    return _absent(name, "not installed", needed, _INSTALL)


def nvjpeg(needed: bool) -> Check:
    """The library that DALI loads: libnvjpeg.so.12, with CUDA 13 too."""
    try:
        wheel = metadata.distribution("nvidia-nvjpeg-cu12")
        path = str(next(wheel.locate_file(file) for file in wheel.files or () if file.name == "libnvjpeg.so.12"))
    except (metadata.PackageNotFoundError, StopIteration):
        path = "libnvjpeg.so.12"
    try:
        library = ctypes.CDLL(path)
        numbers = [ctypes.c_int() for _ in range(3)]
        for kind, number in enumerate(numbers):
            library.nvjpegGetProperty(kind, ctypes.byref(number))
    except (OSError, AttributeError) as error:
        return _absent(
            "nvJPEG", f"libnvjpeg.so.12 cannot be loaded ({error})", needed, "pip install nvidia-nvjpeg-cu12"
        )
    return Check.ok("nvJPEG", f"{'.'.join(str(number.value) for number in numbers)}, libnvjpeg.so.12 loads")


def nvcuvid() -> Check:
    """Through it the hardware JPEG decoder is reached."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return Check.warn("libnvcuvid", "libnvcuvid.so.1 not found: no hardware JPEG decoder", _VIDEO)
    return Check.ok("libnvcuvid", "libnvcuvid.so.1 loads")
