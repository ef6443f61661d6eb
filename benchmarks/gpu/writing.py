"""The report: report.json, report.md, and a short table on the terminal."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Finding, NotHere, Outcome
from benchmarks.gpu.nvml import Gpu

__all__ = ["describe_machine", "print_gates", "print_table", "write"]

_PACKAGES = (
    "datago-gpu", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13",
    "nvidia-nvjpeg-cu12", "cupy-cuda12x", "cupy-cuda13x", "torch", "torchvision", "torchcodec", "datago", "spdl",
    "numpy", "pillow", "cykooz-resizer",
)  # fmt: skip


def write(
    out: Path, outcomes: Sequence[Outcome], settings: dict[str, Any], machine: dict[str, Any], seconds: float
) -> None:
    """Write report.json and report.md. A process that is killed while it writes leaves the files of the call before."""
    checks = [
        {"name": outcome.name, "status": outcome.status, "seconds": round(outcome.seconds, 1), "crash": outcome.crash,
         "findings": [asdict(each) for each in outcome.findings if each.kind != "part"]}
        for outcome in outcomes
    ]  # fmt: skip
    report = {"machine": machine, "settings": settings, "seconds": round(seconds, 1), "checks": checks}
    _replace(out / "report.json", json.dumps(report, indent=1, default=str) + "\n")
    _replace(out / "report.md", _markdown(outcomes, machine, settings, seconds))


def _replace(file: Path, text: str) -> None:
    new = file.with_name(file.name + ".new")
    new.write_text(text)
    new.replace(file)


def print_gates(outcome: Outcome) -> None:
    """Print every gated figure of a check, and everything that went wrong in the check."""
    if outcome.crash:
        print(f"  CRASH  {outcome.crash}")
    for each in outcome.findings:
        if each.kind == "error":
            print(f"  ERROR  {each.name}: {each.value}")
        elif each.gate:
            figure = f"{_shown(each.value)} {each.unit}".strip()
            print(f"  {'passed' if each.passed else 'MISSED'} {each.name}: {figure}, gate {each.gate}")
    sys.stdout.flush()


def print_table(out: Path, outcomes: Sequence[Outcome], machine: dict[str, Any], seconds: float) -> None:
    """Print a line for each check."""
    print(f"\n{machine['gpu']}, DALI {_dali(machine)}, {seconds:.0f} s, report in {out}\n")
    for outcome in outcomes:
        print(f"{outcome.name:<16} {outcome.status:<8} {outcome.seconds:5.0f} s  {_summary(outcome)}")


def describe_machine(device: str) -> dict[str, Any]:
    """The date, the GPU, the processor, and the versions of what is installed."""
    machine: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "gpu": "no GPU", "driver": ""}
    if device != "cpu":
        try:
            gpu = Gpu(int(device.partition(":")[2] or 0))
            used, total = gpu.memory_mib()
            machine |= {"gpu": gpu.name(), "driver": gpu.driver(), "gpu_memory_mib": [round(used), round(total)]}
        except NotHere as missing:
            machine["gpu"] = f"unknown GPU ({missing})"
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return machine | {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


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
        lines += ["| what | figure | gate | |", "| --- | --- | --- | --- |"]
        lines += [_row(each) for each in outcome.findings if each.kind != "part"]
        lines += [""]
    return "\n".join(lines)


def _row(each: Finding) -> str:
    verdict = {True: "passed", False: "**missed**", None: ""}[each.passed]
    if each.kind != "figure":
        verdict = each.kind if each.kind == "skipped" else "**error**"
    cells = (each.name, f"{_shown(each.value)} {each.unit}".strip(), each.gate, verdict)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


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
