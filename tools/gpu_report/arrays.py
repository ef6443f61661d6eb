"""numpy on the CPU, cupy on a GPU, under one name; and streams, which on the CPU are nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import NotHere

__all__ = ["Arrays"]

_SPIN = r"""
extern "C" __global__ void spin(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {}
}
"""
_CYCLES_PER_MS = 1_500_000
"""About: GPUs of this kind run at 1 to 2 GHz. How late a reader comes need not be exact."""
_MANY_BLOCKS = 264
"""Two of 1,024 threads for each multiprocessor of the largest GPU there is: all that fit at once."""


class Arrays:
    """device_id: None for the CPU. Raises NotHere where cupy is wanted and missing."""

    def __init__(self, device_id: int | None) -> None:
        self.on_gpu = device_id is not None
        self.xp: Any = np
        self._spin: Any = None
        if device_id is not None:
            try:
                import cupy
            except ImportError as error:
                raise NotHere(f"cupy cannot be imported: {error}") from error
            cupy.cuda.Device(device_id).use()
            self.xp = cupy
            self._spin = cupy.RawKernel(_SPIN, "spin")

    def streams(self, count: int) -> list[Any]:
        """Streams that do not wait for the default one."""
        return [self.xp.cuda.Stream(non_blocking=True) if self.on_gpu else None for _ in range(count)]

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Make a stream current."""
        with stream if stream is not None else contextlib.nullcontext():
            yield

    def view(self, image: Any) -> Any:
        """A decoder's array, without a copy, on the current stream."""
        return self.xp.from_dlpack(image) if self.on_gpu else np.asarray(image)

    def delay(self, milliseconds: float, *, everywhere: bool = False) -> None:
        """Hold up the current stream; `everywhere`: and leave no other stream room to run kernels."""
        if self._spin is not None:
            grid, block = ((_MANY_BLOCKS,), (1024,)) if everywhere else ((1,), (1,))
            self._spin(grid, block, (np.int64(milliseconds * _CYCLES_PER_MS),))

    def host(self, array: Any) -> NDArray[Any]:
        return self.xp.asnumpy(array) if self.on_gpu else np.asarray(array)

    def checksum(self, array: Any) -> int:
        """A number that any change of a pixel changes, almost surely: weights differ from place to place."""
        flat = array.reshape(-1)
        weights = self.xp.arange(flat.size, dtype=np.int64) % 65521 + 1
        return int(self.host((flat.astype(np.int64) * weights).sum()))

    def synchronize(self) -> None:
        """Wait for everything that was queued on the device."""
        if self.on_gpu:
            self.xp.cuda.Device().synchronize()

    def used_mib(self) -> float:
        """Memory in use: of the whole GPU, without what cupy merely keeps; on the CPU of this process."""
        if self.on_gpu:
            self.xp.get_default_memory_pool().free_all_blocks()
            free, total = self.xp.cuda.runtime.memGetInfo()
            return float(total - free) / 2**20
        return resident_mib()


def resident_mib() -> float:
    """Resident memory of this process, in MiB. Pinned memory of CUDA may or may not be counted: see `host_mib`."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def host_mib() -> float:
    """Memory that this machine has given out and could not take back, in MiB. Pinned memory is in it."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(lines["MemTotal"].split()[0]) - int(lines["MemAvailable"].split()[0])) / 1024
