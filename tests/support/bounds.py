"""Bounds that hold on a loaded machine as well: CPU time of the event loop's callbacks, and memory of this process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MiB = 1024 * 1024
LONGEST_CALLBACK_S = 0.05


@dataclass
class Peak:
    """mb: by how much the memory of this process has grown at the most, once the block is left."""

    mb: float = 0.0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measures what a block takes. What was freed before and is used again is not seen."""
    peak = Peak()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    yield peak
    peak.mb = _status("VmHWM") - before


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


@contextmanager
def short_callbacks() -> Iterator[None]:
    """Fails where a callback of an event loop on this thread takes longer than LONGEST_CALLBACK_S.

    asyncio's own log of slow callbacks goes by the clock on the wall, which on a loaded machine says nothing.
    """
    run, thread = asyncio.Handle._run, threading.get_ident()
    slow: list[tuple[float, str]] = []

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        took = time.thread_time() - began
        if threading.get_ident() == thread and took > LONGEST_CALLBACK_S:
            slow.append((took, repr(handle)))

    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
    assert not slow, f"callbacks that hold up the event loop: {slow}"


def run_bounded(work: Callable[[], Coroutine[Any, Any, T]], *, cpu_s: float, mb: float) -> T:
    """Run it in an event loop of its own: within so much CPU time of this process and so much memory, and without
    holding up the loop."""
    began = time.process_time()
    with peak_memory() as peak, short_callbacks():
        result = asyncio.run(work())
    took = time.process_time() - began
    assert took < cpu_s, f"{took:.1f} s of CPU time"
    assert peak.mb < mb, f"{peak.mb:.0f} MiB"
    return result


def peak_of(work: Callable[..., object], *arguments: Any, usual_heap: bool = False) -> float:
    """MiB that a function of a module takes at the most, in a process of its own. Its `assert`s hold there.

    Memory that was freed goes back to the kernel there at once, so that nothing is hidden in what a heap keeps; unless
    `usual_heap` is set.
    """
    heap = {} if usual_heap else {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    name = f"from {work.__module__} import {work.__name__} as work"
    call = f"with peak_memory() as peak:\n    work(*{arguments!r})\nprint(peak.mb)"
    done = subprocess.run(
        [sys.executable, "-c", f"{name}\nfrom tests.support.bounds import peak_memory\n{call}"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **heap},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert not done.returncode, done.stderr
    return float(done.stdout.splitlines()[-1])
