"""Runs one check, in a process of its own: a driver that crashes takes nothing else with it.

python -m benchmarks.gpu.check NAME SETTINGS       SETTINGS: JSON, as report.py writes it
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from benchmarks.gpu.context import Context
from benchmarks.gpu.findings import Findings, NotHere

PR_SET_PDEATHSIG = 1


def main() -> None:
    # A report that is killed takes its check along: nobody would read the rest, and the GPU would stay busy.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    name, text = sys.argv[1:]
    settings = json.loads(text)
    findings = Findings(Path(settings["findings"]), settings["skip"])
    context = Context(settings["device"], Path(settings["material"]), settings["budget_s"], settings["small"])
    status = 0
    try:
        importlib.import_module(f"benchmarks.gpu.checks.{name}").run(context, findings)
    except (NotHere, ImportError) as missing:
        findings.skipped(name, str(missing))
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Past the interpreter's own end, which drivers and libraries like to crash in: the findings are on disk. What a
    # check started (a loader's feeder, a server), it has closed, or it notices that this process is gone.
    os._exit(status)


if __name__ == "__main__":
    main()
