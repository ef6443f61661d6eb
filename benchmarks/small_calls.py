"""What a loader costs a training step of many small numpy calls, each of which lets the GIL go.

    python -m benchmarks.trainer --small-calls [--runs 5] [--steps 400]

Before each step the loop takes 8 images (500 px, scaled to 64 px) from a folder; only the step, 60 calls, is timed.
The contestants run in turn, each in a process of its own: two processes that burn CPU (the price of sharing the cores
with any other work), datago with its tasks on 1 and 2 threads, and this loader with decode processes and with threads.
A run alternates blocks of steps beside the contestant with blocks of steps alone, while the contestant rests: its
buffers are full, and nothing is taken. Printed is the one over the other, so that a machine that grows slower for a
while changes both. "waits" is how often a step gives up its core, which it does to wait for the GIL.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import machine, material_folder, spread, table
from benchmarks.material import make

CALLS, IMAGES, SIZE = 60, 8, 64
BLOCK, REST_S = 25, 0.25
"""Steps of a block, and how long buffers of 64 images take to be full."""

NUMBERS = np.ones(40_000, np.float32)
CONTESTANTS = {
    "CPU burners": ("burners", 2),
    "datago, 1 task": ("datago", 1),
    "datago, 2 tasks": ("datago", 2),
    "ours": ("ours", None),
    "ours, 1 process": ("ours", 1),
    "ours, threads": ("ours", 0),
}
FIGURES = "mean", "p50", "p99"

Take = Callable[[], object]


class Load(NamedTuple):
    """A contestant that runs beside the steps."""

    take: Take
    """Takes the images of a step."""
    rest: Callable[[], None] = lambda: time.sleep(REST_S)
    """Lets the contestant come to rest."""
    wake: Callable[[], None] = lambda: None


def step() -> float:
    """Returns the seconds of one step."""
    clock = time.perf_counter()
    for _ in range(CALLS):
        np.add(NUMBERS, NUMBERS)
    return time.perf_counter() - clock


class Steps:
    """Times steps. `waits`: how often they gave up their core."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.waits = 0

    def measure(self, count: int, take: Take) -> None:
        """Times so many steps, each after a `take`."""
        for _ in range(count):
            take()
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            self.seconds.append(step())
            self.waits += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    def figures(self) -> list[float]:
        """Returns the mean, the median and the 99th percentile of a step, in seconds."""
        return [statistics.fmean(self.seconds), *np.percentile(self.seconds, [50, 99]).tolist()]


@contextmanager
def burners(count: int | None, _: Path) -> Iterator[Load]:
    """Burns CPU in other processes, in place of a loader."""
    found = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count or 2)]

    def tell(number: signal.Signals) -> None:
        for process in found:
            process.send_signal(number)

    try:
        yield Load(lambda: None, lambda: tell(signal.SIGSTOP), lambda: tell(signal.SIGCONT))
    finally:
        for process in found:
            process.kill()
            process.wait()


@contextmanager
def datago(tasks: int | None, root: Path) -> Iterator[Load]:
    """Loads with datago."""
    os.environ["DATAGO_MAX_TASKS"] = str(tasks)  # read when it is imported
    from datago import DatagoClient

    image = {"crop_and_resize": True, "default_image_size": SIZE, "downsampling_ratio": SIZE}
    image |= {"min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0, "image_to_rgb8": True}
    source = {"root_path": str(root), "random_sampling": False}
    buffers = {"prefetch_buffer_size": 64, "samples_buffer_size": 64}
    config = {"source_type": "file", "source_config": source, "image_config": image, "limit": 10**6, **buffers}
    client = DatagoClient(json.dumps(config))
    client.start()

    def take() -> None:
        for _ in range(IMAGES):
            sample = client.get_sample()
            assert sample is not None, "datago has no more samples"
            sample.image.get_payload().to_numpy_array()

    yield Load(take)
    client.stop()


@contextmanager
def ours(processes: int | None, root: Path) -> Iterator[Load]:
    """Loads with this package."""
    from datago_gpu import Loader

    config = {
        "source_type": "file",
        "source_config": {"root_path": str(root)},
        "image_config": {"crop_and_resize": True, "default_image_size": SIZE, "downsampling_ratio": SIZE}
        | {"min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0},
        "batch_size": IMAGES,
        "epochs": None,
        "samples_buffer_size": 64,
        "decode_config": {"processes": processes},
    }
    with Loader(config, device="cpu", backend="pillow") as loader:
        yield Load(lambda: next(loader))


def compare(args: argparse.Namespace) -> None:
    """Runs the contestants in turn and prints a table."""
    print(machine())
    pictures = sorted(make(material_folder(args.material) / f"500px-{args.pictures}", args.pictures, "500px").iterdir())
    with tempfile.TemporaryDirectory(dir=pictures[0].parents[1]) as folder:
        for number in range(IMAGES * (args.steps + args.steps // 10 + 20)):  # datago passes over them once
            os.link(pictures[number % len(pictures)], f"{folder}/{number:06}.jpg")
        show(args, run(args, folder))


def run(args: argparse.Namespace, root: str) -> dict[str, list[list[float]]]:
    """Runs the contestants in turn. Returns what `contestant` returned in each run."""
    here = [name for name, (kind, _) in CONTESTANTS.items() if kind != "datago" or find_spec("datago")]
    found: dict[str, list[list[float]]] = {name: [] for name in here}
    for number in range(args.runs):
        order = here[:: 1 if number % 2 == 0 else -1]
        for name in order:
            command = [sys.executable, "-m", "benchmarks.small_calls", name, root, str(args.steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=500)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def show(args: argparse.Namespace, found: dict[str, list[list[float]]]) -> None:
    """Prints a table of medians and ranges."""
    header = [f"a step of {CALLS} calls beside a loader, over the step alone; {args.runs} runs of {args.steps}",
              *FIGURES, "waits", "images/s"]  # fmt: skip
    rows = ([name, *(spread(column) for column in zip(*runs, strict=True))] for name, runs in found.items())
    print("\n".join(table(header, rows)))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1))


def contestant(name: str, root: Path, steps: int) -> list[float]:
    """Returns the inflation of a step, by `FIGURES`, the waits of a step, and the images taken in a second."""
    kind, number = CONTESTANTS[name]
    load: Any = {"burners": burners, "datago": datago, "ours": ours}[kind]
    alone, beside, taking_s = Steps(), Steps(), 0.0
    with load(number, root) as it:
        Steps().measure(max(4, steps // 10), it.take)  # until the buffers have been full once
        for begin in range(0, steps, BLOCK):
            count = min(BLOCK, steps - begin)
            it.rest()
            alone.measure(count, lambda: None)
            it.wake()
            clock = time.perf_counter()
            beside.measure(count, it.take)
            taking_s += time.perf_counter() - clock
    ratios = [there / here for there, here in zip(beside.figures(), alone.figures(), strict=True)]
    return [*ratios, beside.waits / steps, steps * IMAGES / taking_s]


if __name__ == "__main__":
    print(json.dumps(contestant(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
