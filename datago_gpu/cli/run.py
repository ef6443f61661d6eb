"""Runs a loader to its end with a progress bar, and reports what it did. Shared by the commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from datago_gpu.batch import Batch
from datago_gpu.loader import Loader
from datago_gpu.loader.stats import Stats

__all__ = ["report", "run", "show"]


def run(loader: Loader, each: Callable[[Batch], None] = lambda _: None) -> tuple[Stats, float]:
    """Takes all batches. Returns the statistics, and the seconds from the call to the first batch."""
    progress = Progress(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    first_s, clock = 0.0, time.perf_counter()
    with progress:
        task = progress.add_task("", total=loader.config.limit, speed="")
        for batch in loader:
            now = time.perf_counter() - clock
            first_s = first_s or now
            progress.update(task, advance=len(batch), speed=f"{loader.stats().delivered / now:,.0f} images/s")
            each(batch)
    return loader.stats(), first_s


def report(loader: Loader, stats: Stats, first_s: float) -> dict[str, Any]:
    """Returns the figures of a run as plain values."""
    return {
        "samples": stats.delivered,
        "skipped": stats.skipped,
        "flawed": stats.flawed,
        "passed_over": stats.passed_over,
        "seconds": round(stats.seconds, 4),
        "first_batch_s": round(first_s, 4),
        "images_per_s": round(stats.delivered / stats.seconds, 2),
        "bytes_per_s": round(stats.bytes / stats.seconds),
        "backend": loader.backend.name,
        "device": loader.backend.device,
        "reason": loader.backend.reason,
        "stages": stats.as_dict()["stages"],
        "slowest": stats.slowest,
        "feeder_cores": round(stats.feeder_cores, 4),
    }


def show(figures: dict[str, Any]) -> None:
    """Prints the figures as two short tables."""
    console = Console()
    table = Table(show_header=False, box=None)
    skipped = ", ".join(f"{count} {reason}" for reason, count in figures["skipped"].items()) or "none"
    flawed, passed = (
        ", ".join(f"{count} {reason}" for reason, count in figures[name].items()) for name in ("flawed", "passed_over")
    )
    for name, value in {
        "samples": f"{figures['samples']:,} in {figures['seconds']:.2f} s, the first batch after "
        f"{figures['first_batch_s']:.2f} s",
        "images/s": f"{figures['images_per_s']:,.0f}",
        "MB/s": f"{figures['bytes_per_s'] / 1e6:,.1f} (encoded)",
        "skipped": skipped,
        **({"flawed": flawed} if flawed else {}),
        **({"passed over": passed} if passed else {}),
        "back end": f"{figures['backend']} on {figures['device']} ({figures['reason']})",
        "slowest stage": figures["slowest"],
        "feeder": f"{figures['feeder_cores']:.0%} of a core",
    }.items():
        table.add_row(name, value)
    console.print(table)
    stages = Table("stage", "samples", "samples/s", "waited for input", "waited for output", box=None)
    for stage in figures["stages"]:
        waits = (f"{stage[side]:.0%}" for side in ("waited_input", "waited_output"))
        stages.add_row(stage["name"], f"{stage['items']:,}", f"{stage['per_s']:,.0f}", *waits)
    console.print(stages)
