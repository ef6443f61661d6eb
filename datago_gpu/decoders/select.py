"""Chooses the back end once, before anything starts, and records the reason.

This module checks the driver (libcuda, through ctypes) and the installed packages without importing them.
`decoders.make` imports them, which takes 0.1 s for Pillow and numpy, 0.4 s and more for DALI and cupy.
"""

from __future__ import annotations

import ctypes
import operator
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, SupportsIndex

from datago_gpu.config.ranks import find_local_rank
from datago_gpu.errors import ConfigError

__all__ = ["INSTALL", "Backend", "choose", "gpus"]

INSTALL = "pip install 'datago_gpu[cuda12]' (or [cuda13] for CUDA 13)"

_WITHOUT_DOCSTRINGS = (
    "DALI needs docstrings, which this Python leaves out: start Python without -OO (-O works) and PYTHONOPTIMIZE=2"
)


@dataclass(frozen=True, slots=True)
class Backend:
    """The chosen back end, its device, and the reason for the choice."""

    name: Literal["dali", "pillow"]
    device: str
    """"cpu", or "cuda:" and the index of the GPU."""
    device_id: int | None = None
    """The index of the GPU; None for the CPU."""
    reason: str = ""


def choose(device: object = "auto", backend: str | None = "auto") -> Backend:
    """Chooses the back end and the device.

    device: "auto", "cuda", "cuda:INDEX" or "cpu"; also the INDEX alone, a torch.device, or None for "auto". "auto" and
    "cuda" use the GPU that LOCAL_RANK (or what MPI or Slurm set instead) names, else the first.
    backend: "auto" (also None), "dali" or "pillow". "auto" is DALI on a GPU and Pillow on the CPU.
    Raises ConfigError if the combination cannot work; the message says what is missing and how to install it.
    """
    device, backend = _device_name(device), backend or "auto"
    if backend not in ("auto", "dali", "pillow"):
        raise ConfigError(f"backend must be 'auto', 'dali' or 'pillow', got {backend!r}")
    if backend == "pillow":
        if device.startswith("cuda"):
            raise ConfigError(f"backend 'pillow' decodes on the CPU only, got device {device!r}: use backend 'dali'")
        return Backend("pillow", "cpu", reason="backend='pillow' was requested")
    if device == "cpu":
        return _on_cpu(backend, "device='cpu' was requested")
    return _on_gpu(device, backend)


def _device_name(device: object) -> str:
    """Returns the device as text. Raises ConfigError for an unknown device."""
    if device is None:
        return "auto"
    is_number = isinstance(device, SupportsIndex) and not isinstance(device, bool)
    name = f"cuda:{operator.index(device)}" if is_number else str(device)  # type: ignore[arg-type]
    if re.fullmatch(r"cpu:\d+", name):  # torch has but one CPU: accelerate numbers its ranks in this way
        return "cpu"
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:INDEX' or INDEX, got {device!r}")
    return name


def _on_cpu(backend: str, why: str) -> Backend:
    if backend == "auto":
        return Backend("pillow", "cpu", reason=why)
    if _without_docstrings():
        raise ConfigError(f"backend 'dali' cannot be used: {_WITHOUT_DOCSTRINGS}, or use backend 'pillow'")
    if not _installed("nvidia.dali"):
        raise ConfigError(f"backend 'dali' needs DALI, which is not installed: {INSTALL}")
    return Backend("dali", "cpu", reason=f"{why}; backend='dali' was requested")


def _on_gpu(device: str, backend: str) -> Backend:
    count, missing = gpus()
    remedy = "check that nvidia-smi lists a GPU here, or use device='auto'"
    absent = [name for name in ("nvidia.dali", "cupy") if not _installed(name)]
    if not missing and absent:
        missing, remedy = f"{' and '.join(absent)} not installed", INSTALL
    if not missing and _without_docstrings():
        missing, remedy = "DALI cannot be imported under -OO", _WITHOUT_DOCSTRINGS
    if missing and device == "auto":
        return _on_cpu(backend, missing)
    if missing:
        raise ConfigError(f"device {device!r} cannot be used: {missing}; {remedy}")
    index, reason = _index(device, count)
    return Backend("dali", f"cuda:{index}", index, reason)


def _index(device: str, count: int) -> tuple[int, str]:
    """Returns the index of the GPU to use, of `count`, and the reason."""
    _, _, wanted = device.partition(":")
    if wanted:
        if int(wanted) >= count:
            raise ConfigError(f"device {device!r} does not exist: there are {count} GPUs, counted from 0")
        return int(wanted), f"device={device!r} was requested"
    local = find_local_rank()
    if local.rank is not None:
        return local.rank % count, f"{local.rank_origin} is {local.rank} and there are {count} GPUs"
    return 0, f"the first of {count} GPUs"


def _without_docstrings() -> bool:
    return sys.flags.optimize > 1


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def gpus() -> tuple[int, str]:
    """Returns the number of GPUs that the driver reports, and if there are none, the reason."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no CUDA driver (libcuda.so.1 not found)"
    status = driver.cuInit(0)
    if status:
        return 0, f"no usable GPU (the CUDA driver's cuInit returned {status})"
    count = ctypes.c_int()
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return 0, f"no GPU (the CUDA driver counts {count.value}, status {status})"
    return count.value, ""
