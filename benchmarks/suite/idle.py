"""What the feeder takes of a core while the trainer is the slow one: stands still, or pauses after each batch."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.suite.workloads import SMALL_BUFFER_MB
from datago_gpu import Loader

__all__ = ["PAUSE_S", "measure", "shards", "sources"]

PAUSE_S = 0.25
"""Between two batches of 32: 128 images a second at the most."""
_LOOK_S = 0.25
_IDLE_CORES = 0.01
_PATIENCE_S = 30.0


def sources(files: Path, listed: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Configs by what they load: a folder, and the Dataroom that serves it."""
    return {
        "files": _config("file", {"root_path": str(files)}),
        "files, shuffled": _config("file", {"root_path": str(files), "random_sampling": True}),
        "a Dataroom": _config("db", listed),
        "a Dataroom, 1 download process": _config("db", listed, download_processes=1),
    }


def shards(title: str, url: str) -> dict[str, dict[str, Any]]:
    """Configs for shards that are larger than the buffer."""
    source = {"url": url, "buffer_mb": SMALL_BUFFER_MB}
    return {f"{title}, interleave {n}": _config("webdataset", {**source, "interleave": n}) for n in (1, 8)}


def _config(source_type: str, source: dict[str, Any], **http: Any) -> dict[str, Any]:
    image = {"crop_and_resize": True, "default_image_size": 224}
    return {"source_type": source_type, "source_config": source, "image_config": image, "http_config": http,
            "epochs": None}  # fmt: skip


def measure(config: dict[str, Any], seconds: float) -> dict[str, float]:
    """What the feeder takes, and what downloads for it: cores, wake-ups of their threads, CPU time for a sample."""
    with Loader(config, device="cpu", backend="pillow") as loader:
        pids = [loader.feeder_pid, *loader.download_pids]
        next(loader)
        _wait_until_full(pids)
        clock, (cpu_s, wakes) = time.perf_counter(), _spent(pids)
        time.sleep(seconds)
        still_s, (still_cpu_s, still_wakes) = time.perf_counter() - clock, _spent(pids)
        clock, count = time.perf_counter(), 0
        while time.perf_counter() - clock < seconds:
            count += len(next(loader))
            time.sleep(PAUSE_S)
        slow_s, (slow_cpu_s, _) = time.perf_counter() - clock, _spent(pids)
    return {
        "still_cores": (still_cpu_s - cpu_s) / still_s,
        "still_wakes_per_s": (still_wakes - wakes) / still_s,
        "slow_cores": (slow_cpu_s - still_cpu_s) / slow_s,
        "slow_images_per_s": count / slow_s,
        "slow_cpu_us": (slow_cpu_s - still_cpu_s) / count * 1e6,
    }


def _wait_until_full(pids: list[int]) -> None:
    """Until they do nothing any more, twice; or for _PATIENCE_S: then the figures show what they do."""
    until, idle, before = time.perf_counter() + _PATIENCE_S, 0, _spent(pids)[0]
    while idle < 2 and time.perf_counter() < until:
        time.sleep(_LOOK_S)
        now = _spent(pids)[0]
        idle, before = (idle + 1 if now - before < _IDLE_CORES * _LOOK_S else 0), now


def _spent(pids: list[int]) -> tuple[float, int]:
    """CPU seconds of the processes, and how often their threads have gone to sleep."""
    cpu_s, switches = 0.0, 0
    for pid in pids:
        cpu_s += time.clock_gettime(~pid << 3 | 2)  # a process's own clock, as clock_getcpuclockid(3) names it
        for thread in os.scandir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                for line in Path(thread, "status").read_text().splitlines():
                    switches += int(line.split()[1]) if line.startswith("voluntary") else 0
    return cpu_s, switches
