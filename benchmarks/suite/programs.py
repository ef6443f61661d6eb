"""The benchmarks that are programs of their own, as parts of one run: what each is asked, and what it printed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.peers import printed

__all__ = ["PROGRAMS", "Program", "output"]

TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Program:
    """One of benchmarks/*.py.

    title: what the report calls it. words: its options in every run. amount: the option that says how much is measured,
    and its value in a full run; least: its value in the shortest. once: it is long, and one run has to do.
    """

    title: str
    module: str
    amount: tuple[str, int] | None = None
    words: tuple[str, ...] = ()
    least: int = 40
    once: bool = False

    def options(self, runs: int, scale: float, material: Path, python: str) -> list[str]:
        """The command line of a run of this share of the full one."""
        words = ["--runs", str(1 if self.once else runs)]
        if self.amount:
            name, full = self.amount
            words += [name, str(max(round(full * min(scale, 1)), self.least))]
        own = ["--python", python] if python and self.module == "crops" else []
        return [*self.words, *words, "--material", str(material), *own]


PROGRAMS = {
    "lockstep": Program("Lockstep: the same rows with and without", "lockstep", ("--count", 2000)),
    "crops": Program("Random crops and flips", "crops", ("--count", 2000)),
    "views": Program("Views: two of 224 px and six of 96 of each image", "views", ("--count", 1000)),
    "own-rows": Program("Rows of a program's own", "own_rows", ("--count", 1000)),
    "small-calls": Program(
        "A training step of many small calls, beside a loader", "trainer", ("--steps", 200), ("--small-calls",)
    ),
    "trainer": Program("A training step in Python, beside a loader", "trainer", ("--steps", 4000)),
    "handover": Program("What the trainer's process pays in Python for a sample", "handover"),
    "feeder": Program(
        "What one feeder sustains", "scaling", ("--images", 20_000), ("--processes", "4", "16"), least=200
    ),
    "tables": Program("Rows of tables", "table_rows", ("--rows", 4_000_000), least=1000, once=True),
    "index": Program("An index: datago-gpu index", "indexing", ("--count", 50_000), once=True),
}
"""Part of a run -> the program."""


def output(program: Program, runs: int, scale: float, material: Path, python: str = "") -> str:
    """Runs a program and returns the Markdown it prints behind the line of the machine. Raises RuntimeError."""
    command = [sys.executable, "-m", f"benchmarks.{program.module}", *program.options(runs, scale, material, python)]
    return printed(command, timeout_s=TIMEOUT_S, folder=Path(__file__).parents[2]).partition("\n")[2].strip()
