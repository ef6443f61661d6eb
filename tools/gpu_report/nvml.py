"""What the driver counts, by nvidia-ml-py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

from benchmarks.common import NotHere

__all__ = ["Gpu", "Sampler"]


class Gpu:
    """One GPU, by its index as CUDA counts. Raises NotHere without a driver, or without cupy or nvidia-ml-py."""

    def __init__(self, index: int) -> None:
        try:
            import cupy
            import pynvml

            # CUDA_VISIBLE_DEVICES renumbers for CUDA, not for NVML: the PCI address is the same for both.
            address = cupy.cuda.runtime.deviceGetPCIBusId(index)
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByPciBusId(address)
        except Exception as error:  # ImportError, or the error of either library
            raise NotHere(f"NVML cannot be asked: {error}") from error
        self._nvml = pynvml

    def name(self) -> str:
        return str(self._ask(self._nvml.nvmlDeviceGetName, self._handle))

    def driver(self) -> str:
        return str(self._ask(self._nvml.nvmlSystemGetDriverVersion))

    def memory_mib(self) -> tuple[float, float]:
        """(used, total)"""
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        return memory.used / 2**20, memory.total / 2**20

    def jpeg_percent(self) -> int:
        """How much of the driver's last sampling period the JPEG engines were busy."""
        percent, _period_us = self._ask(self._nvml.nvmlDeviceGetJpgUtilization, self._handle)
        return int(percent)

    def kernel_percent(self) -> int:
        """How much of the driver's last sampling period a kernel was running."""
        return int(self._ask(self._nvml.nvmlDeviceGetUtilizationRates, self._handle).gpu)

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._nvml.NVMLError as error:
            raise NotHere(f"{question.__name__}: {error}") from error


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
