"""Runs one check, in a process of its own: a driver that crashes takes nothing else with it.

python -m tools.gpu_report.check NAME SETTINGS       SETTINGS: JSON, as report.py writes it
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from benchmarks.common import NotHere
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings


def main() -> None:
    threading.Thread(target=_end_with_the_report, daemon=True).start()
    name, text = sys.argv[1:]
    settings = json.loads(text)
    findings = Findings(Path(settings["findings"]), name, settings["skip"])
    context = Context(
        settings["device"], Path(settings["material"]), settings["budget_s"], settings["small"], settings["began_at"]
    )
    status = 0
    try:
        module, _, function = settings["entry"].partition(":")
        getattr(importlib.import_module(f"tools.gpu_report.checks.{module}"), function)(context, findings)
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


def _end_with_the_report() -> None:
    """End this process and what it started, once the report is gone, whatever it died of: it holds the other end."""
    sys.stdin.buffer.read()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
