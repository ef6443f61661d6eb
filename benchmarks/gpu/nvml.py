"""What the driver counts, asked of libnvidia-ml itself: no Python package is needed."""

from __future__ import annotations

import ctypes
import threading
from typing import Self

from benchmarks.gpu.findings import NotHere

__all__ = ["Gpu", "Sampler"]


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Gpu:
    """One GPU, by its index as CUDA counts. Raises NotHere without a driver."""

    def __init__(self, index: int) -> None:
        try:
            self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
            driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NotHere(f"no NVIDIA driver: {error}") from error
        # CUDA_VISIBLE_DEVICES renumbers for CUDA, not for NVML: the PCI address is the same for both.
        device, address = ctypes.c_int(), ctypes.create_string_buffer(32)
        for status in (
            driver.cuInit(0),
            driver.cuDeviceGet(ctypes.byref(device), index),
            driver.cuDeviceGetPCIBusId(address, 32, device),
        ):
            if status:
                raise NotHere(f"the CUDA driver answered {status}")
        self._handle = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByPciBusId_v2", address, ctypes.byref(self._handle))

    def name(self) -> str:
        text = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetName", self._handle, text, 96)
        return text.value.decode()

    def driver(self) -> str:
        text = ctypes.create_string_buffer(80)
        self._call("nvmlSystemGetDriverVersion", text, 80)
        return text.value.decode()

    def memory_mib(self) -> tuple[float, float]:
        """(used, total)"""
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._handle, ctypes.byref(memory))
        return memory.used / 2**20, memory.total / 2**20

    def jpeg_percent(self) -> int:
        """How much of the driver's last sampling period the JPEG engines were busy."""
        percent, period_us = ctypes.c_uint(), ctypes.c_uint()
        self._call("nvmlDeviceGetJpgUtilization", self._handle, ctypes.byref(percent), ctypes.byref(period_us))
        return int(percent.value)

    def kernel_percent(self) -> int:
        """How much of the driver's last sampling period a kernel was running."""
        utilization = _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", self._handle, ctypes.byref(utilization))
        return int(utilization.gpu)

    def _call(self, name: str, *arguments: object) -> None:
        try:
            status = getattr(self._nvml, name)(*arguments)
        except AttributeError:
            raise NotHere(f"this driver has no {name}") from None
        if status:
            raise NotHere(f"{name} answered {status}")


class Sampler:
    """Asks a GPU again and again, beside what is measured. A context manager."""

    def __init__(self, gpu: Gpu, period_s: float = 0.1) -> None:
        self._gpu, self._period_s = gpu, period_s
        self.jpeg: list[int] = []
        self.kernels: list[int] = []
        self.missing = ""
        """Why there are no samples of the JPEG engines."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._period_s):
            try:
                self.kernels.append(self._gpu.kernel_percent())
                self.jpeg.append(self._gpu.jpeg_percent())
            except NotHere as problem:
                self.missing = str(problem)
