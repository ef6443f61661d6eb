"""Threads that decode, and how many there are.

Those of concurrent.futures end as soon as the main thread ends, while a trainer on another thread may still iterate.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from datago_gpu.config import DecodeConfig

__all__ = ["Threads", "decoding_threads", "gpu_threads", "pillow_threads"]

_MOST_ON_GPU = 16
"""On a GPU, each thread costs 16 MiB of its memory and 16 MiB of pinned memory, and a stream. The GPU does the work."""


def decoding_threads(decode: DecodeConfig) -> int:
    """How many threads decode on the CPU: the setting, else the CPUs that this process may use."""
    return decode.threads or len(os.sched_getaffinity(0))


def pillow_threads(decode: DecodeConfig) -> int:
    """How many threads decode with Pillow: the setting, else one more than there are CPUs, since part of the work holds
    the GIL. That is 1 to 17% quicker on 2 CPUs."""
    return decode.threads or decoding_threads(decode) + 1


def gpu_threads(decode: DecodeConfig, *, mask: bool = False) -> int:
    """How many threads help a GPU to decode: the setting, else this process's share of the CPUs, up to 16.

    Each kind of image of a sample has threads of its own: masks, which are small, have half as many.
    """
    if decode.threads:
        return decode.threads
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")  # set by torchrun and others, for the processes of one machine
    share = len(os.sched_getaffinity(0)) // (int(processes) if processes.isdecimal() and int(processes) else 1)
    count = max(1, min(_MOST_ON_GPU, share))
    return max(1, count // 2) if mask else count


class Threads:
    """A fixed number of daemon threads that call what they are given."""

    def __init__(self, count: int, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name=f"{name}_{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def call(self, work: Callable[[], None], times: int) -> None:
        """Have so many of the threads call `work`, which must not raise."""
        for _ in range(times):
            self._calls.put(work)

    def close(self) -> None:
        """End them, once they have done what they were given. May be called twice."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
            del work  # while it waits for the next, it would keep this batch
