"""What benchmarks share that load the same pictures in several ways, in turn: options, pictures, and medians."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.common import material_folder
from benchmarks.material import PIXELS, make

__all__ = ["in_turn", "medians", "picture_options", "pictures_of"]


def picture_options(options: argparse.ArgumentParser, count: int) -> None:
    """Adds the options of benchmarks that load the same pictures in several ways: see `pictures_of`."""
    options.add_argument("--pixels", default="500px", choices=sorted(PIXELS))
    options.add_argument("--count", type=int, default=count, help="number of pictures")
    options.add_argument("--batch-size", type=int, default=32)


def pictures_of(args: argparse.Namespace) -> Path:
    """Makes the pictures that the options ask for, unless they are there, and returns their folder."""
    return make(material_folder(args.material) / f"{args.pixels}-{args.count}", args.count, args.pixels)


def in_turn(runs: int, contestants: Mapping[str, Callable[[], Sequence[float]]]) -> dict[str, list[tuple[float, ...]]]:
    """Runs the contestants in turn and returns, for each of their figures, its value in every run.

    One run more of each comes first, which warms the page cache and does not count; not where `runs` is 1, a mere look.
    """
    found: dict[str, list[Sequence[float]]] = {name: [] for name in contestants}
    for _ in range(runs + (runs > 1)):
        for name, run in contestants.items():
            found[name].append(run())
    return {name: [*zip(*figures[-runs:], strict=True)] for name, figures in found.items()}


def medians(found: Mapping[str, list[tuple[float, ...]]]) -> dict[str, list[float]]:
    """Returns the medians of what `in_turn` returned."""
    return {name: [*map(statistics.median, figures)] for name, figures in found.items()}
