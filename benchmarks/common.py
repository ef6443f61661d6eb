"""What the benchmarks, the long tests and the GPU report share: options, the machine, and Markdown tables."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

__all__ = ["NotHere", "machine", "material_folder", "number", "parser", "processor", "spread", "table", "versions"]

PACKAGES = ("datago-gpu", "pillow", "cykooz-resizer", "aiohttp", "uvloop", "nvidia-dali-cuda120", "datago")


class NotHere(Exception):
    """Says what this machine lacks or does not allow: a part of a run is left out for it. No failure."""


def machine() -> str:
    """Returns the machine and the versions that a figure belongs to."""
    cores, python = len(os.sched_getaffinity(0)), platform.python_version()
    found = dict.fromkeys(PACKAGES, "(not installed)") | versions(PACKAGES)
    return f"{processor()}, {cores} cores, Python {python}; " + ", ".join(f"{name} {of}" for name, of in found.items())


def processor() -> str:
    """Returns the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parser(text: str, runs: int = 3) -> argparse.ArgumentParser:
    """Makes a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=runs, help="measured runs of each contestant")
    made.add_argument("--json", type=Path, help="write all figures to this file")
    made.add_argument("--material", type=Path, help="folder for the pictures; kept, and used again")
    return made


def material_folder(given: Path | None) -> Path:
    """Returns where pictures are made, so that the next run finds them there."""
    return given or Path(tempfile.gettempdir()) / "datago-gpu-benchmarks"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yields the lines of a Markdown table, each as soon as its row is there."""
    header = list(header)
    for row in chain((header, ["---"] * len(header)), rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def spread(values: Iterable[float]) -> str:
    """Returns the median of several runs and, in brackets, their range."""
    ordered = sorted(values)
    middle = number(statistics.median(ordered))
    return f"{middle} ({number(ordered[0])} to {number(ordered[-1])})" if len(ordered) > 1 else middle


def number(value: float) -> str:
    """Returns a number with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
