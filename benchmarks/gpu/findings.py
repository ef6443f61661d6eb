"""What a check says. Each line is on disk before the next thing is tried, so that a crash loses nothing."""

from __future__ import annotations

import json
import math
import operator
import re
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Finding", "Findings", "NotHere", "Outcome", "judge"]

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


class NotHere(Exception):
    """A part of a check cannot be done on this machine: says what is missing. No failure."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check.

    kind: "figure", "skipped" (not possible on this machine), "error" (a part broke) or "part" (one begins).
    value: a number, or a short text. gate: such as "<= 4", empty where none is set. passed: None without a gate.
    """

    kind: str
    name: str
    value: Any = None
    unit: str = ""
    gate: str = ""
    passed: bool | None = None


@dataclass(slots=True)
class Outcome:
    """What became of one check."""

    name: str
    seconds: float = 0.0
    crash: str = ""
    """How it ended, where it did not end by itself."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def status(self) -> str:
        """ "error", "fail", "pass", "skipped" where nothing could be done here, or "info" where nothing is gated."""
        verdicts = {each.passed for each in self.findings if each.kind == "figure"}
        if self.crash or any(each.kind == "error" for each in self.findings):
            return "error"
        if False in verdicts:
            return "fail"
        if True in verdicts:
            return "pass"
        return "info" if verdicts else "skipped"


def judge(value: float, gate: str) -> bool:
    """Whether a number meets a gate such as ">= 0.95". What is not a number does not."""
    match = re.fullmatch(r"(<=|>=|==) (-?[\d.]+)", gate)
    if not match:
        raise ValueError(f"a gate reads like '<= 4', got {gate!r}")
    return not math.isnan(value) and _COMPARE[match[1]](value, float(match[2]))


class Findings:
    """Writes findings to a file of JSON lines. `skip`: names of parts that are not to be run again."""

    def __init__(self, file: Path, skip: Collection[str] = ()) -> None:
        self._file, self._skip = file, frozenset(skip)
        self.all: list[Finding] = []

    def add(self, name: str, value: Any, unit: str = "", gate: str = "") -> None:
        """A figure, and whether it meets its gate."""
        self._write(Finding("figure", name, value, unit, gate, judge(value, gate) if gate else None))

    def skipped(self, name: str, why: str) -> None:
        """Something that this machine or device cannot show."""
        self._write(Finding("skipped", name, why))

    def part(self, name: str, do: Callable[..., None], *arguments: Any) -> None:
        """Do a part of a check. What it raises is recorded, and the next part goes on."""
        if name in self._skip:
            return
        self._write(Finding("part", name))
        clock = time.perf_counter()
        try:
            do(*arguments)
        except (NotHere, ImportError) as missing:
            self.skipped(name, str(missing))
        except Exception as error:  # whatever a driver or a library comes up with: the rest is worth having
            traceback.print_exc()
            text = " ".join(str(error).split())[:400]
            self._write(Finding("error", name, f"{type(error).__name__}: {text}"))
        print(f"  {name}: {time.perf_counter() - clock:.1f} s", flush=True)

    def _write(self, finding: Finding) -> None:
        self.all.append(finding)
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(finding), default=str) + "\n")


def read(file: Path) -> list[Finding]:
    """The findings in a file; a last line that was cut off is left out."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            found.append(Finding(**json.loads(line)))
        except ValueError:
            break
    return found
