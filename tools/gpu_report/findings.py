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

from benchmarks.common import NotHere

__all__ = ["Finding", "Findings", "Outcome", "judge", "outcomes", "read"]

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check.

    kind: "figure", "skipped" (not possible on this machine), "error" (a part broke), "part" (one begins) or "ended"
    (the check has: `value` is how many seconds it took, `unit` how it crashed, if it did).
    value: a number, or a short text. gate: such as "<= 4", empty where none is set. passed: None without a gate.
    """

    kind: str
    name: str
    value: Any = None
    unit: str = ""
    gate: str = ""
    passed: bool | None = None
    check: str = ""


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

    @property
    def bad(self) -> bool:
        """Whether a gate was missed, or something broke."""
        return self.status in ("error", "fail")


def judge(value: float, gate: str) -> bool:
    """Whether a number meets a gate such as ">= 0.95". What is not a number does not."""
    match = re.fullmatch(r"(<=|>=|==) (-?[\d.]+)", gate)
    if not match:
        raise ValueError(f"a gate reads like '<= 4', got {gate!r}")
    return not math.isnan(value) and _COMPARE[match[1]](value, float(match[2]))


class Findings:
    """Appends the findings of a check to a file of JSON lines. `skip`: names of parts that are not to be run again."""

    def __init__(self, file: Path, check: str, skip: Collection[str] = ()) -> None:
        self._file, self._check, self.skip = file, check, frozenset(skip)
        self.all: list[Finding] = []

    @property
    def bad(self) -> bool:
        """Whether a gate was missed, or something broke, since this process began."""
        return Outcome(self._check, findings=self.all).bad

    def add(self, name: str, value: Any, unit: str = "", gate: str = "") -> None:
        """A figure, and whether it meets its gate."""
        self._write("figure", name, value, unit, gate, judge(value, gate) if gate else None)

    def skipped(self, name: str, why: str) -> None:
        """Something that this machine or device cannot show."""
        self._write("skipped", name, why)

    def error(self, name: str, what: str) -> None:
        """A part that broke."""
        self._write("error", name, what)

    def begin(self, name: str) -> None:
        """A part begins: should the process die, it was this part."""
        self._write("part", name)

    def ended(self, seconds: float, crash: str = "") -> None:
        """The check is over."""
        self._write("ended", self._check, round(seconds, 1), crash)

    def part(self, name: str, do: Callable[..., None], *arguments: Any) -> None:
        """Do a part of a check. What it raises is recorded, and the next part goes on."""
        if name in self.skip:
            return
        self.begin(name)
        clock = time.perf_counter()
        try:
            do(*arguments)
        except (NotHere, ImportError) as missing:
            self.skipped(name, str(missing))
        except Exception as error:  # whatever a driver or a library comes up with: the rest is worth having
            traceback.print_exc()
            self.error(name, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
        print(f"  {name}: {time.perf_counter() - clock:.1f} s", flush=True)

    def _write(
        self, kind: str, name: str, value: Any = None, unit: str = "", gate: str = "", passed: bool | None = None
    ) -> None:
        finding = Finding(kind, name, value, unit, gate, passed, self._check)
        self.all.append(finding)
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(finding), default=str) + "\n")


def read(file: Path, check: str = "") -> list[Finding]:
    """The findings in a file, of one check or of all. A line that was cut off is left out."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            found.append(Finding(**json.loads(line)))
        except ValueError:
            continue
    return [each for each in found if check in ("", each.check)]


def outcomes(file: Path) -> list[Outcome]:
    """What a file says became of each check, in the order in which they began."""
    found: dict[str, Outcome] = {}
    ended = set()
    for each in read(file):
        outcome = found.setdefault(each.check, Outcome(each.check))
        if each.kind == "ended":
            outcome.seconds, outcome.crash = each.value, each.unit
            ended.add(each.check)
        else:
            outcome.findings.append(each)
    for name in found.keys() - ended:
        found[name].crash = "cut off: the report was ended while it ran"
    return list(found.values())
