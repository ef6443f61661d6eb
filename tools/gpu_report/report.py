"""Runs every check of the GPU path and writes what it found. See docs/gpu/README.md.

    python -m tools.gpu_report.report --out results/gpu --device cuda
    python -m tools.gpu_report.report --out /tmp/report --device cpu --small
    python -m tools.gpu_report.report --out /tmp/report --device cuda --only parity hazard
    python -m tools.gpu_report.report --out /tmp/report --rewrite

It may be killed at any moment: findings.jsonl in --out has each finding as soon as it is made, and report.json and
report.md are written anew after each check. --rewrite makes them of the findings of a report that was cut off. log.txt
has what libraries said. It prints what was gated when a check ends and a table last, and exits with 1 where a gate was
missed or a check broke. Where "smoke" fails, nothing else is run. A check that lacks a library fails nothing.
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

from tools.gpu_report import findings, material, writing
from tools.gpu_report.plan import CHECKS, TOTAL_S

ROOT = Path(__file__).resolve().parents[2]

GRACE, GRACE_S = 1.2, 10.0
"""A check is ended when it takes so many times its seconds, and so many more."""
RETRIES = 8
"""How often a check that crashed is taken up again behind the part that it crashed in."""


def run_check(name: str, settings: dict[str, object], limit_s: float, log: Path) -> None:
    """Run a check; where it crashes, run it again without what it had begun by then."""
    began, file = time.monotonic(), Path(str(settings["findings"]))
    crashes, skip = list[str](), list[str]()
    for _ in range(1 + RETRIES):
        left_s = limit_s - (time.monotonic() - began)
        crash = _run_once(name, settings | {"skip": skip}, left_s, log)
        begun = [each.name for each in findings.read(file, name) if each.kind == "part"]
        if crash:
            crashes.append(crash + (f" in {begun[-1]!r}" if begun else ""))
        if not crash or begun == skip or time.monotonic() - began > limit_s / 2:
            break
        skip = begun
    findings.Findings(file, name).ended(time.monotonic() - began, "; ".join(crashes))


def _run_once(name: str, settings: dict[str, object], limit_s: float, log: Path) -> str:
    """Returns how it crashed, or nothing."""
    command = [sys.executable, "-m", "tools.gpu_report.check", name, json.dumps(settings)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("a") as file:
        file.write(f"\n=== {name}\n")
        file.flush()
        # Its standard input ends with this process, and with that the check.
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(max(limit_s, 1.0))
        except subprocess.TimeoutExpired:
            return f"ended after {limit_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started and left, too
            process.communicate()
    last = log.read_text(errors="replace").strip().splitlines()[-1][:300]
    if status < 0:
        return f"killed by signal {-status}"
    return f"exit status {status}: {last}" if status else ""


def run_checks(names: list[str], args: argparse.Namespace, photographs: Path, report: writing.Report) -> None:
    """Run checks while there is time, and write the report after each."""
    ends = report.began_at + args.seconds
    for number, name in enumerate(names):
        left_s = ends - time.monotonic()
        if left_s < 5:
            report.leave_out(names[number:], "no time was left")
            return
        budget_s = min(CHECKS[name].seconds * args.stretch, left_s)
        settings: dict[str, object] = {
            "device": args.device,
            "entry": CHECKS[name].entry or f"{name}:run",
            "material": str(photographs),
            "findings": str(report.findings),
            "budget_s": budget_s,
            "began_at": time.monotonic(),
            "small": args.small,
        }
        run_check(name, settings, min(budget_s * GRACE + GRACE_S, left_s + GRACE_S), args.out / "log.txt")
        if report.tell(name).bad and CHECKS[name].decides:
            report.leave_out(names[number + 1 :], f"{name} failed")
            return


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.rewrite:
        report = writing.Report.reopened(args.out)
        report.write()
    else:
        settings = {"device": args.device, "small": args.small, "seconds": args.seconds, "stretch": args.stretch}
        report = writing.Report(args.out, settings)
        (args.out / "log.txt").write_text("")
        report.findings.unlink(missing_ok=True)
        report.write()
        with tempfile.TemporaryDirectory(prefix="datago_gpu-report-") as temporary:
            photographs = (args.keep or Path(temporary)) / "photographs"
            material.prepare(photographs, small=args.small, photos=args.photos)
            print(f"photographs: {time.monotonic() - report.began_at:.0f} s", flush=True)
            run_checks(args.only or list(CHECKS), args, photographs, report)
    report.print_table()
    sys.exit(any(outcome.bad for outcome in report.outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:INDEX or cpu")
    parser.add_argument("--small", action="store_true", help="a few small images: proves the script, measures nothing")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for everything together")
    parser.add_argument("--stretch", type=float, default=1.0, help="give each check so many times its seconds")
    parser.add_argument("--photos", type=Path, help="a folder of photographs to cut from, instead of those that ship")
    parser.add_argument("--keep", type=Path, help="where to keep the photographs made, and to look for them")
    parser.add_argument("--rewrite", action="store_true", help="write the report of the findings in --out, run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
