"""Judging time on a machine that has other work: when a process rests, how quick something is at its best, and when
loaders that were stopped have let go of everything.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["end_of_loaders", "end_of_threads", "quickest", "rest"]

END_S = 20
TRIES = 5
LOOK_S = 0.1
LOOKS = 3
FEW = 4
"""Switches of a process at rest within LOOK_S: now and then a feeder looks for its parent, a request at the time."""


def quickest(seconds: Callable[[], float], limit_s: float) -> float:
    """The least of a few measurements, of which there is only one where the first is below the limit.

    Other work on the machine delays some measurements, but what is too slow by itself is too slow each time.
    """
    best = seconds()
    for _ in range(TRIES - 1):
        if best < limit_s:
            break
        best = min(best, seconds())
    return best


def end_of_loaders() -> None:
    """Waits for the threads of loaders that were stopped, also by other tests: they close the last descriptors."""
    gc.collect()
    end_of_threads()


def end_of_threads() -> None:
    """Waits for the threads of loaders and feeders that were stopped in this process: a thread that reads a file is not
    waited for otherwise."""
    for thread in threading.enumerate():
        if thread.name.startswith("datago"):
            thread.join(END_S)


def rest(*pids: int) -> None:
    """Waits until these processes rest: all their threads sleep, and hardly one has woken, for a while. The thread that
    calls it, of one of them, does not count.

    A process that waits for a busy machine does not sleep: its threads are ready to run.
    """
    looks, before = 0, _switches(pids)
    while looks < LOOKS:
        time.sleep(LOOK_S)
        now = _switches(pids)
        resting = now is not None and before is not None and now - before <= FEW
        looks, before = (looks + 1 if resting else 0), now


def _switches(pids: tuple[int, ...]) -> int | None:
    """How often their threads have gone to sleep so far; None where a thread does not sleep now."""
    count = 0
    for pid in pids:
        for thread in set(os.listdir(f"/proc/{pid}/task")) - {str(threading.get_native_id())}:
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                lines = Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines()
                status = dict(line.split(":", 1) for line in lines)
                if status["State"].split()[0] != "S":
                    return None
                count += int(status["voluntary_ctxt_switches"])
    return count
