"""What is watched while the soak runs: that batches keep coming, and that memory, descriptors and threads stay flat."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import psutil

__all__ = ["Watch", "growth"]

EVERY_S = 0.5
_MOMENT_S = 0.02


class Watch(threading.Thread):
    """Ends the process with status 3 and the stacks of all threads where a stream brings nothing for `hang_s`."""

    def __init__(self, hang_s: float) -> None:
        super().__init__(name="soak-watch", daemon=True)
        self._hang_s = hang_s
        self._stopped = threading.Event()
        self._seen: dict[str, float] = {}
        self._feeders: dict[str, int] = {}
        self.longest_s: dict[str, float] = {}
        """Stream -> the longest time without a batch."""
        self.memory: dict[str, list[float]] = {"trainer": [], "feeder": [], "download": [], "decode": []}
        """MiB resident, sampled."""
        self.descriptors: dict[str, list[int]] = {"trainer": [], "feeder": [], "download": [], "decode": []}
        self.threads: dict[str, list[int]] = {"trainer": [], "feeder": [], "download": [], "decode": []}

    def progress(self, stream: str) -> None:
        """A batch has come, or the stream begins."""
        now = time.monotonic()
        if stream in self._seen:
            self.longest_s[stream] = max(self.longest_s.get(stream, 0.0), now - self._seen[stream])
        self._seen[stream] = now

    def pause(self, stream: str) -> None:
        """Nothing more is expected of it."""
        self._seen.pop(stream, None)

    def note(self, who: str, pid: int, moments: int = 1) -> None:
        """Measure a process now. Its threads are counted so often, and the most are taken: some come and go."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            threads = process.num_threads()
            for _ in range(moments - 1):
                time.sleep(_MOMENT_S)
                threads = max(threads, process.num_threads())
            self.memory[who].append(process.memory_info().rss / 2**20)
            self.descriptors[who].append(process.num_fds())
            self.threads[who].append(threads)

    def verdict(self, leeway: float, most: int) -> Iterator[tuple[str, str, bool]]:
        """Yields gate, figure, and whether it holds: by how much memory, descriptors and threads have grown.

        leeway: the share by which memory may. most: what a feeder may have of the others at any time: they are its
        connections, and threads as they are needed, which settings bound.
        """
        for who, figures in self.memory.items():
            if len(figures) >= 4:  # else too short a run to compare
                first, last = growth(figures)
                told = f"{first:.1f} -> {last:.1f} MiB ({last / first - 1:+.1%})"
                yield f"{who}: memory", told, last < first * (1 + leeway)
        for what, table in (("descriptors", self.descriptors), ("threads", self.threads)):
            for who, numbers in table.items():
                if len(numbers) >= 4:
                    first, last = growth(numbers)
                    holds = last <= first + 2 if who == "trainer" else max(numbers) < most
                    yield f"{who}: {what}", f"{first:g} -> {last:g}, at most {max(numbers)}", holds

    def run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            for stream, seen in list(self._seen.items()):
                if time.monotonic() - seen > self._hang_s:
                    print(f"HANG: no batch of {stream} for {self._hang_s:g} s", flush=True)
                    faulthandler.dump_traceback(sys.stdout, all_threads=True)
                    os._exit(3)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def growth(figures: Sequence[float]) -> tuple[float, float]:
    """The medians of the first and of the last quarter."""
    quarter = max(1, len(figures) // 4)
    return statistics.median(figures[:quarter]), statistics.median(figures[-quarter:])
