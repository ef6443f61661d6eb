"""The report: report.json, report.md, and a short table on the terminal."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import NotHere, processor, table, versions
from tools.gpu_report.findings import Finding, Findings, Outcome, outcomes
from tools.gpu_report.nvml import Gpu

__all__ = ["Report"]

_PACKAGES = (
    "datago-gpu", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13",
    "nvidia-nvjpeg-cu12", "nvidia-nvjpeg", "cupy-cuda12x", "cupy-cuda13x", "torch", "torchvision", "torchcodec",
    "datago", "spdl", "numpy", "pillow", "cykooz-resizer",
)  # fmt: skip

MOST_PASSED = 12
"""So many of a check are printed: the machine that runs it may hand back the last few pages only."""


class Report:
    """What has been found so far, in `findings`, and the files that show it."""

    def __init__(self, out: Path, settings: dict[str, Any], machine: dict[str, Any] | None = None) -> None:
        self.began_at = time.monotonic()
        self.findings = out / "findings.jsonl"
        self._out, self._settings = out, settings
        self._machine = machine or _machine(settings["device"])

    @classmethod
    def reopened(cls, out: Path) -> Report:
        """The report in a folder, as it was cut off."""
        old = json.loads((out / "report.json").read_text())
        report = cls(out, old["settings"], old["machine"])
        report.began_at -= sum(outcome.seconds for outcome in report.outcomes)
        return report

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each check so far."""
        return outcomes(self.findings)

    def write(self) -> None:
        """Write report.json and report.md. Each is replaced as a whole, so that none is ever cut short."""
        found, seconds = self.outcomes, time.monotonic() - self.began_at
        checks = [
            {"name": outcome.name, "status": outcome.status, "seconds": outcome.seconds, "crash": outcome.crash,
             "findings": [asdict(each) for each in outcome.findings if each.kind != "part"]}
            for outcome in found
        ]  # fmt: skip
        report = {"machine": self._machine, "settings": self._settings, "seconds": round(seconds, 1), "checks": checks}
        self._replace("report.json", json.dumps(report, indent=1, default=str) + "\n")
        self._replace("report.md", _markdown(found, self._machine, self._settings, seconds))

    def _replace(self, name: str, text: str) -> None:
        new = self._out / f"{name}.new"
        new.write_text(text)
        new.replace(self._out / name)

    def tell(self, name: str) -> Outcome:
        """Write the report, and print what was gated in a check that has just ended."""
        self.write()
        outcome = next(each for each in self.outcomes if each.name == name)
        print(f"{name}: {outcome.status}, {outcome.seconds:.0f} s {outcome.crash}", flush=True)
        troubles = [each for each in outcome.findings if each.kind == "error" or each.passed is False]
        passed = [each for each in outcome.findings if each.passed]
        for each in troubles + passed[:MOST_PASSED]:
            verdict = {True: "passed", False: "MISSED", None: "ERROR"}[each.passed]
            print(f"  {verdict} {each.name}: {_shown(each.value)} {each.unit} {each.gate}".rstrip()[:300], flush=True)
        if passed[MOST_PASSED:]:
            print(f"  passed {len(passed) - MOST_PASSED} more", flush=True)
        return outcome

    def leave_out(self, names: Sequence[str], why: str) -> None:
        """Say that checks were not run."""
        for name in names:
            said = Findings(self.findings, name)
            said.skipped(name, why)
            said.ended(0.0)
        self.write()

    def print_table(self) -> None:
        """A line for each check."""
        seconds = time.monotonic() - self.began_at
        print(f"\n{self._machine['gpu']}, DALI {_dali(self._machine)}, {seconds:.0f} s, report in {self._out}\n")
        for outcome in self.outcomes:
            print(f"{outcome.name:<16} {outcome.status:<8} {outcome.seconds:5.0f} s  {_summary(outcome)}")


def _machine(device: str) -> dict[str, Any]:
    machine: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "gpu": "no GPU", "driver": ""}
    if device != "cpu":
        try:
            gpu = Gpu(int(device.partition(":")[2] or 0))
            used, total = gpu.memory_mib()
            machine |= {"gpu": gpu.name(), "driver": gpu.driver(), "gpu_memory_mib": [round(used), round(total)]}
        except NotHere as missing:
            machine["gpu"] = f"unknown GPU ({missing})"
    return machine | {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": versions(_PACKAGES),
    }


def _dali(machine: dict[str, Any]) -> str:
    return next((f"{v}" for k, v in machine["packages"].items() if k.startswith("nvidia-dali")), "not installed")


def _markdown(outcomes: Sequence[Outcome], machine: dict[str, Any], settings: dict[str, Any], seconds: float) -> str:
    lines = ["# GPU report", ""]
    if settings["small"]:
        lines += ["**A small run: it proves that the script works, and measures nothing.**", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items() if name != "packages" and value != ""]
    lines += ["- packages: " + ", ".join(f"{name} {version}" for name, version in machine["packages"].items())]
    lines += [f"- settings: {settings}", f"- took {seconds:.0f} s", ""]
    for outcome in outcomes:
        lines += [f"## {outcome.name}: {outcome.status} ({outcome.seconds:.0f} s)", ""]
        lines += [f"**Crashed:** {outcome.crash}", ""] if outcome.crash else []
        rows = (_row(each) for each in outcome.findings if each.kind != "part")
        lines += [*table(["what", "figure", "gate", ""], rows), ""]
    return "\n".join(lines)


def _row(each: Finding) -> tuple[str, ...]:
    verdict = {True: "passed", False: "**missed**", None: ""}[each.passed]
    if each.kind != "figure":
        verdict = each.kind if each.kind == "skipped" else "**error**"
    return each.name, f"{_shown(each.value)} {each.unit}".strip(), each.gate, verdict


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(outcome: Outcome) -> str:
    """One line: what went wrong, or how much was looked at."""
    troubles = [f"CRASH {outcome.crash}"] if outcome.crash else []
    for each in outcome.findings:
        if each.kind == "error":
            troubles.append(f"ERROR {each.name}: {each.value}")
        elif each.passed is False:
            troubles.append(f"MISSED {each.name}: {_shown(each.value)}, gate {each.gate}")
    if troubles:
        more = f"; and {len(troubles) - 3} more" if len(troubles) > 3 else ""
        return "; ".join(trouble[:160] for trouble in troubles[:3]) + more
    gated = sum(each.passed is True for each in outcome.findings)
    figures = sum(each.kind == "figure" for each in outcome.findings)
    left_out = [each for each in outcome.findings if each.kind == "skipped"]
    text = f"{figures} figures, {gated} gates passed" if figures else ""
    if left_out:
        text += f"{', ' if text else ''}{len(left_out)} not on this machine ({left_out[0].value[:60]})"
    return text
