"""Decoding threads, and functions that choose their number.

concurrent.futures is no replacement: its threads end with the main thread, while a trainer on another thread may still
iterate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from datago_gpu.config import DecodeConfig
from datago_gpu.config.ranks import cpu_share

__all__ = ["Threads", "decoding_threads", "gpu_threads", "pillow_threads"]

_MOST_ON_GPU = 16
"""Maximum number of threads for a GPU. Each costs 16 MiB of GPU memory, 16 MiB of pinned memory and a stream, while the
GPU does the work."""


def decoding_threads(decode: DecodeConfig) -> int:
    """Returns the number of threads that decode on the CPU: the setting, else this process's share of the CPUs."""
    return decode.threads or cpu_share()


def pillow_threads(decode: DecodeConfig) -> int:
    """Returns the number of threads that decode with Pillow: the setting, else the share of the CPUs plus one.

    The additional thread helps because part of the work holds the GIL: it is 1 to 17% faster on 2 CPUs.
    """
    return decode.threads or decoding_threads(decode) + 1


def gpu_threads(decode: DecodeConfig, *, mask: bool = False) -> int:
    """Returns the number of threads that help a GPU to decode: the setting, else this process's CPU share, at most 16.

    Each kind of image has its own threads. Masks are small and get half as many.
    """
    if decode.threads:
        return decode.threads
    count = min(_MOST_ON_GPU, cpu_share())
    return max(1, count // 2) if mask else count


class Threads:
    """A fixed number of daemon threads that run the functions passed to `call`."""

    def __init__(self, count: int, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name=f"{name}_{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def call(self, work: Callable[[], None], times: int) -> None:
        """Queues `times` calls of `work`, which must not raise."""
        for _ in range(times):
            self._calls.put(work)

    def close(self) -> None:
        """Ends the threads once their queued calls are done. May be called twice."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
            del work  # otherwise the thread keeps the batch alive while it waits
