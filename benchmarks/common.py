"""What the benchmarks share: contestants in processes of their own, in alternating order, and tables of medians."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Contest", "contestant", "machine", "material_folder", "parser", "printed"]

PACKAGES = ("datago-gpu", "pillow", "cykooz-resizer", "aiohttp", "uvloop", "nvidia-dali-cuda120", "datago")


def machine() -> str:
    """The machine and the versions that a figure belongs to."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}; " + ", ".join(
        f"{name} {_version(name)}" for name in PACKAGES
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def parser(text: str, runs: int = 3) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=runs, help="measured runs of each contestant")
    made.add_argument("--json", type=Path, help="write all figures to this file")
    made.add_argument("--material", type=Path, help="folder for the pictures; kept, and used again")
    return made


def material_folder(given: Path | None) -> Path:
    """Where pictures are made: next run finds them there."""
    return given or Path(tempfile.gettempdir()) / "datago-gpu-benchmarks"


class Contest:
    """Runs contestants in turn, one warm-up each, and prints the median and the range of what they return."""

    def __init__(self, title: str, unit: str, runs: int) -> None:
        self.title, self.unit, self._runs = title, unit, runs
        self.figures: dict[str, list[float]] = {}

    def hold(self, contestants: dict[str, Callable[[], float]], *, warm_up: bool = True) -> None:
        """Measure: A B C, C B A, A B C, ..."""
        for run in contestants.values() if warm_up else ():
            run()
        order: Sequence[str] = list(contestants)
        for _ in range(self._runs):
            for name in order:
                self.figures.setdefault(name, []).append(contestants[name]())
            order = order[::-1]

    def median(self, name: str) -> float:
        """Of one contestant."""
        return statistics.median(self.figures[name])

    def ratio(self, ours: str, theirs: str) -> float:
        """Of the medians."""
        return self.median(ours) / self.median(theirs)

    def show(self) -> None:
        """Print a table."""
        print(f"\n{self.title} ({self.unit}; median of {self._runs}, range)")
        for name, values in self.figures.items():
            print(f"  {name:34} {self.median(name):10,.1f}   {min(values):,.1f} to {max(values):,.1f}")


def contestant(
    script: str, *arguments: str, environment: dict[str, str] | None = None, timeout_s: float = 600
) -> float:
    """Run a Python text in a process of its own; the last line it prints is the figure."""
    return float(printed(script, *arguments, environment=environment, timeout_s=timeout_s))


def printed(script: str, *arguments: str, environment: dict[str, str] | None = None, timeout_s: float = 600) -> Any:
    """Run a Python text in a process of its own: what the last line that it prints means as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"a contestant failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])
