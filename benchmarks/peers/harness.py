"""What every contestant's program shares: what it is asked, the clock, and the answer.

    python peers/NAME_peer.py --describe          versions and kinds of workload, or what is missing, as JSON
    python peers/NAME_peer.py SPEC                runs one workload, given as JSON; the last line is the figures

A program gives `main` generators of batches, one for each kind of workload it can do. Its clock starts before the
loader is made, with imports done, and stops when the last batch lies in memory as dense pixels. It imports nothing of
datago_gpu, so that it runs in any interpreter.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spec:
    """One run. size: pixels of the square pictures wanted."""

    kind: str
    count: int
    size: int = 224
    batch: int = 32
    root: str = ""
    urls: list[str] = field(default_factory=list)
    api_url: str = ""
    api_key: str = ""
    mask: str = ""
    threads: int = 0
    """Decoding threads, tasks or workers; 0 leaves the program's choice."""
    concurrent: int = 64
    """Downloads in flight."""
    device: str = "cpu"
    stall_s: float = 0.0
    """Seconds without a batch, after which the program ends itself; 0: it may wait for ever."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further ones of a single contestant."""

    @property
    def workers(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))

    def files(self) -> list[str]:
        """All pictures, in the order of their names."""
        found = (os.path.join(folder, name) for folder, _, names in os.walk(self.root) for name in names)
        return sorted(path for path in found if path.endswith(".jpg"))


def main(
    packages: dict[str, str],
    kinds: dict[str, Callable[[Spec], Iterable[Any]]],
    ready: Callable[[], object] = lambda: None,
) -> None:
    """packages: module -> name in the index, all of which are needed. ready: raises what else is missing."""
    if sys.argv[1] == "--describe":
        print(json.dumps(_describe(packages, list(kinds), ready)))
        return
    spec = Spec(**json.loads(sys.argv[1]))
    for module in packages:
        importlib.import_module(module)
    print(json.dumps(_run(spec, kinds[spec.kind])))


def _describe(packages: dict[str, str], kinds: list[str], ready: Callable[[], object]) -> dict[str, Any]:
    versions, package = {}, ""
    for module, package in packages.items():  # before any of them is imported, which may take a second
        if find_spec(module.partition(".")[0]) is None:
            return {"missing": package, "reason": f"no module named {module}"}
    for module, package in packages.items():
        try:
            importlib.import_module(module)
            versions[package] = version(package)
        except Exception as error:
            return {"missing": package, "reason": _line(error)}
    try:
        ready()
    except Exception as error:
        return {"missing": f"what {package} needs", "reason": _line(error)}
    return {"versions": versions, "kinds": kinds}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"


def _run(spec: Spec, batches: Callable[[Spec], Iterable[Any]]) -> dict[str, Any]:
    count, first_s, memory, more = 0, 0.0, 0.0, {}
    watch, clock, spent = Watch(spec.stall_s), time.perf_counter(), cpu_of_all()
    for batch in batches(spec):
        watch.note()
        if isinstance(batch, dict):  # what else is known at the end
            more = batch
            continue
        now = time.perf_counter() - clock
        if not first_s:
            first_s = now
            memory = memory_mb() if spec.kind == "million" else 0.0
        if isinstance(batch, int):
            count += batch
        else:
            check(batch, spec.size)
            count += len(batch)
        if spec.kind == "million":
            break
    seconds = time.perf_counter() - clock
    watch.end()
    if spec.kind != "million" and count != spec.count:
        raise SystemExit(f"{count} of {spec.count} samples came")
    made = {"images": count, "seconds": seconds, "first_s": first_s, "memory_mb": memory}
    made["longest_wait_s"] = watch.longest_s
    return {**made, "cpu_us": (cpu_of_all() - spent) / max(count, 1) * 1e6, **more}


class Watch:
    """The longest wait for a batch; the program ends itself when a wait reaches the limit.

    faulthandler waits on a thread that needs no GIL, so that a peer which waits with the GIL held is noticed, too. It
    writes where each thread stood, and ends the program with status 1: `suite.peers` tells that from other errors.
    """

    def __init__(self, limit_s: float) -> None:
        self.longest_s, self._limit_s = 0.0, limit_s
        self._last = self._armed = time.perf_counter()
        self._arm(self._last)

    def note(self) -> None:
        """A batch is here."""
        now = time.perf_counter()
        self.longest_s, self._last = max(self.longest_s, now - self._last), now
        if now - self._armed > self._limit_s / 20:  # starting its thread takes time
            self._arm(now)

    def _arm(self, now: float) -> None:
        self._armed = now
        if self._limit_s:
            faulthandler.dump_traceback_later(self._limit_s, exit=True)

    def end(self) -> None:
        """No further batch is waited for."""
        faulthandler.cancel_dump_traceback_later()


def cpu_of_all() -> float:
    """CPU seconds of this process and of those it started that have ended: what a sample costs, whoever else runs."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def check(batch: Any, size: int) -> None:
    """Dense pixels of the size asked for, three channels first or last."""
    shape = tuple(batch.shape)[1:]
    if shape not in ((size, size, 3), (3, size, size)):
        raise SystemExit(f"a batch of shape {tuple(batch.shape)}: {size} x {size} pixels were wanted")


def memory_mb(pid: int | None = None) -> float:
    """Proportional set size of a process and all below it: shared pages count once."""
    pid, total = pid or os.getpid(), 0.0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) / 1024
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [word for task in tasks for word in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return total
    return total + sum(memory_mb(int(child)) for child in children)


def stacked(pictures: Iterable[Any], size: int) -> Iterable[Any]:
    """Arrays of single pictures as dense batches."""
    import numpy as np

    waiting: list[Any] = []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def from_memory(spec: Spec, decode: Callable[[list[bytearray]], None]) -> Iterable[Any]:
    """Decodes batches of files that were read before the clock starts, a few batches at a time, each on a thread."""
    payloads = [bytearray(Path(name).read_bytes()) for name in spec.files()]
    batches = [payloads[begin : begin + spec.batch] for begin in range(0, len(payloads), spec.batch)]
    decode(batches[0])  # what a decoder makes at its first use
    faulthandler.cancel_dump_traceback_later()  # all comes at the end
    clock = time.perf_counter()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(decode, batches))
    yield len(payloads)
    yield {"seconds": time.perf_counter() - clock, "first_s": None}


def squared(file: Any, size: int) -> Any:
    """The centre of a picture as a square of `size`, with Pillow at its quickest: decoded smaller where it shrinks."""
    from PIL import Image

    with Image.open(file) as image:
        wide, high = image.size
        least = min(wide, high)
        # At least `size`, as draft() takes the next larger scale.
        image.draft("RGB", (-(-wide * size // least), -(-high * size // least)))
        picture = image.convert("RGB")
    wide, high = picture.size
    least = min(wide, high)
    left, top = (wide - least) / 2, (high - least) / 2
    return picture.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + least, top + least))
