"""Runs every check of the GPU path and writes what it found. See docs/gpu/README.md.

    python -m benchmarks.gpu.report --out results/gpu --device cuda
    python -m benchmarks.gpu.report --out /tmp/report --device cpu --small
    python -m benchmarks.gpu.report --out /tmp/report --device cuda --only parity hazard

Writes report.json, report.md and log.txt into --out, anew after every check; findings/CHECK.jsonl gets each figure:
a report that is killed leaves what it found. Prints the gated figures of each check when the check ends, and a table
last. Exits with 1 where a gate was missed or a check broke. A check that lacks a library says so and fails nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # run as a file, not as a module

from benchmarks.gpu import findings, material, writing  # noqa: E402

CHECKS = {
    "hardware": 30.0,
    "parity": 40.0,
    "hazard": 60.0,
    "handoff": 20.0,
    "faults": 30.0,
    "limit": 100.0,
    "peers": 25.0,
    "training": 45.0,
    "memory": 30.0,
    "encode": 10.0,
    "sweep": 65.0,
}
"""Check -> seconds, in the order in which they run: the last ones are cut where time runs out."""

TOTAL_S = 470.0
GRACE = 1.4
"""A check is ended when it takes so many times its seconds, and 15 s."""
RETRIES = 8
"""How often a check that crashed is taken up again behind the part that it crashed in."""


def run_check(name: str, settings: dict[str, object], limit_s: float, log: Path) -> findings.Outcome:
    """Run a check; where it crashes, run it again without what it had begun by then."""
    outcome, began, file = findings.Outcome(name), time.monotonic(), Path(str(settings["findings"]))
    skip: list[str] = []
    for _ in range(1 + RETRIES):
        left_s = limit_s - (time.monotonic() - began)
        crash = _run_once(name, settings | {"skip": skip}, left_s, log)
        found = findings.read(file)
        begun = [each.name for each in found if each.kind == "part"]
        if crash:
            outcome.crash = f"{outcome.crash}; {crash}".strip("; ") + (f" in {begun[-1]!r}" if begun else "")
        if not crash or begun == skip or time.monotonic() - began > limit_s / 2:
            break
        skip = begun
    outcome.findings, outcome.seconds = found, time.monotonic() - began
    return outcome


def _run_once(name: str, settings: dict[str, object], limit_s: float, log: Path) -> str:
    """Returns how it crashed, or nothing."""
    command = [sys.executable, "-m", "benchmarks.gpu.check", name, json.dumps(settings)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("a") as file:
        file.write(f"\n=== {name}\n")
        file.flush()
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(max(limit_s, 1.0))
        except subprocess.TimeoutExpired:
            return f"ended after {limit_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started and left, too
            process.wait()
    last = log.read_text(errors="replace").strip().splitlines()[-1][:300]
    if status < 0:
        return f"killed by signal {-status}"
    return f"exit status {status}: {last}" if status else ""


def run_checks(
    names: list[str], args: argparse.Namespace, photographs: Path, began: float, machine: dict[str, object]
) -> list[findings.Outcome]:
    """Run checks one after the other. The files of the report are written anew after each."""
    log, told = args.out / "log.txt", args.out / "findings"
    log.write_text("")
    told.mkdir(exist_ok=True)
    for old in told.glob("*.jsonl"):
        old.unlink()
    report_settings = {"device": args.device, "small": args.small, "seconds": args.seconds}
    outcomes: list[findings.Outcome] = []
    writing.write(args.out, outcomes, report_settings, machine, 0.0)  # no check of an earlier report stays
    for name in names:
        left_s = args.seconds - (time.monotonic() - began)
        if left_s < 5:
            outcomes.append(findings.Outcome(name, findings=[findings.Finding("skipped", name, "no time was left")]))
        else:
            budget_s = min(CHECKS[name] * args.seconds / TOTAL_S, left_s)
            settings: dict[str, object] = {
                "device": args.device,
                "material": str(photographs),
                "findings": str(told / f"{name}.jsonl"),
                "budget_s": budget_s,
                "small": args.small,
            }
            print(f"{name} ...", end=" ", flush=True)
            outcomes.append(run_check(name, settings, min(budget_s * GRACE + 15, left_s + 15), log))
            print(f"{outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", flush=True)
            writing.print_gates(outcomes[-1])
        writing.write(args.out, outcomes, report_settings, machine, time.monotonic() - began)
    return outcomes


def main() -> None:
    args = _arguments()
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    machine = writing.describe_machine(args.device)
    with tempfile.TemporaryDirectory(prefix="datago_gpu-report-") as temporary:
        photographs = (args.keep or Path(temporary)) / "photographs"
        photographs.mkdir(parents=True, exist_ok=True)
        material.prepare(photographs, small=args.small, photos=args.photos)
        print(f"photographs: {time.monotonic() - began:.0f} s", flush=True)
        outcomes = run_checks(args.only or list(CHECKS), args, photographs, began, machine)
    writing.print_table(args.out, outcomes, machine, time.monotonic() - began)
    sys.exit(any(outcome.status in ("error", "fail") for outcome in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:INDEX or cpu")
    parser.add_argument("--small", action="store_true", help="a few small images: proves the script, measures nothing")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for all checks together")
    parser.add_argument("--photos", type=Path, help="a folder of photographs to cut from, instead of those that ship")
    parser.add_argument("--keep", type=Path, help="where to keep the photographs made, and to look for them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
