"""What was measured: for each workload, each contestant's runs or the reason why there are none."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import number
from benchmarks.suite.peers import STALL_S, Stalled

__all__ = ["Figures", "Table"]


@dataclass
class Table:
    """One workload.

    unit: "images/s", "GB/s", or "s" (to the first batch) where less is better. What is no other unit is a rate, too.
    """

    title: str
    unit: str
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Contestant -> why it has no runs."""
    stalled: dict[str, int] = field(default_factory=dict)
    """Contestant -> its runs that stalled, which are not among the others."""
    load: float = 0.0
    """The machine's load average over the last minute when it was done."""
    apart: bool = False
    """Servers had a core of their own."""

    def measure(self, contestants: Mapping[str, Callable[[], dict[str, Any]]], runs: int) -> None:
        """Runs A B C, C B A, A B C, ... One that fails is left out, and the table says why."""
        order = list(contestants)
        for _ in range(runs):
            for name in order:
                if name not in self.absent:
                    self._add(name, contestants[name])
            order.reverse()
        for name in self.stalled.keys() - self.runs.keys() - self.absent.keys():
            self.absent[name] = f"stalled: all {runs} runs, each {STALL_S:.0f} s without a batch"

    def _add(self, name: str, contestant: Callable[[], dict[str, Any]]) -> None:
        try:
            made = contestant()
            self.runs.setdefault(name, []).append(made)
        except Stalled:
            self.stalled[name] = self.stalled.get(name, 0) + 1
        except RuntimeError as problem:
            self.runs.pop(name, None)
            self.absent[name] = "failed: " + str(problem).replace("\n", "; ")[-300:]

    def show(self) -> None:
        """Prints the medians and ranges, and who is absent."""
        print(f"\n{self.title} ({self.unit}; median, range)")
        for name in self.runs:
            values = sorted(self.values(name))
            print(f"  {name:34} {number(self.median(name)):>10}   {number(values[0])} to {number(values[-1])}")
        for name, reason in self.absent.items():
            print(f"  {name:34} {reason}", flush=True)
        print(*(f"  {line}\n" for line in self.stalls()), sep="", end="", flush=True)

    def stalls(self) -> list[str]:
        """A sentence for each contestant of which runs stalled."""
        said = f"no batch for {STALL_S:.0f} s. They are not in the medians."
        return [
            f"Stalled: {name}, {count} of {count + len(self.runs.get(name, ()))} runs: {said}"
            for name, count in self.stalled.items()
        ]

    def values(self, name: str) -> list[float]:
        """One for each run."""
        if self.unit == "s":
            return [run["first_s"] for run in self.runs[name]]
        if self.unit == "GB/s":
            return [run["bytes"] / run["seconds"] / 1e9 for run in self.runs[name]]
        return [run["images"] / run["seconds"] for run in self.runs[name]]

    def ratio(self, ours: str, theirs: str) -> float:
        """Of the medians."""
        return self.median(ours) / self.median(theirs)

    def median(self, name: str, key: str = "") -> float:
        """Of the unit's values, or of another key of the runs."""
        values = [run.get(key) or 0.0 for run in self.runs[name]] if key else self.values(name)
        return statistics.median(values)

    def steady(self, name: str, batch: int = 32) -> float:
        """Median of images/s from the first batch on: without what it takes to start."""
        runs = [run for run in self.runs[name] if run["images"] > batch]
        rates = [(run["images"] - batch) / (run["seconds"] - (run.get("first_s") or 0.0)) for run in runs]
        return statistics.median(rates) if rates else 0.0

    def together(self) -> float:
        """What the limits would come to, one after the other for each sample: they share the cores with the server.

        0.0 where they do not."""
        if self.apart:
            return 0.0
        limits = [self.median(name) for name in self.runs if name.startswith("limit")]
        return 1 / sum(1 / rate for rate in limits) if len(limits) > 1 else 0.0

    def limit(self) -> str:
        """The nearer of the limits that were measured; "" if none was."""
        limits = [name for name in self.runs if name.startswith("limit")]
        return min(limits, key=self.median, default="")


@dataclass
class Figures:
    """Everything of one or more calls; the later call replaces a table that it measured again."""

    path: Path
    machine: str = ""
    date: str = ""
    """The day of the latest call."""
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Contestants that are not installed, and why."""
    notes: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    scaling: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    """What is varied -> contestant -> (value, images/s)."""
    costs_us: dict[str, dict[str, float]] = field(default_factory=dict)
    """Workload -> part of ours -> CPU microseconds that one more sample takes."""
    programs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Part -> "title" and "text": what a program of its own printed, as Markdown."""
    took_s: dict[str, float] = field(default_factory=dict)
    """Part -> seconds that it took in all."""
    idle: dict[str, dict[str, float]] = field(default_factory=dict)
    """Source -> what the feeder takes while the trainer is the slow one, as `suite.idle` has it."""

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Those of an earlier call in the same file, or none."""
        if not path.exists():
            return cls(path)
        found = json.loads(path.read_text())
        tables = {name: Table(**table) for name, table in found.pop("tables").items()}
        return cls(path, tables=tables, **found)

    def write(self) -> None:
        """As JSON."""
        tables = {name: vars(table) for name, table in self.tables.items()}
        whole = {**vars(self), "tables": tables}
        del whole["path"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(whole, indent=1))
