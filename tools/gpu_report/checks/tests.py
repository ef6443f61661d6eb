"""The suite's own tests of the GPU path, those marked "cuda": each is a part, so that one that crashes ends no other.

On the CPU they are all skipped, which shows that they are found and can be imported.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import NotHere
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings

ROOT = Path(__file__).resolve().parents[3]
WHERE = ("tests/decoders", "tests/imaging", "tests/end_to_end/test_aligned.py")
NEEDED = ("pytest", "hypothesis", "psutil", "pytest_timeout")
"""Without one of them pytest finds no test, and does not say why in the report."""
MOST_FAILURES = 15
TEXT = 1500
"""Characters of what a failed test says, its last ones."""


def run(context: Context, findings: Findings) -> None:
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        raise NotHere(f"the tests need {', '.join(absent)}, which cannot be imported")
    import pytest

    told = Told(context, findings)
    with tempfile.TemporaryDirectory() as folder, _required(context):
        options = ["-m", "cuda", "-q", "--tb=short", f"--maxfail={MOST_FAILURES}", f"--basetemp={folder}/tests"]
        sys.path.insert(0, str(ROOT))
        status = pytest.main([*options, "-p", "no:cacheprovider", "-p", "no:xdist", *WHERE], plugins=[told])
    counts = told.counts
    findings.add("tests found", told.found + len(findings.skip), gate=">= 100")
    findings.add("tests passed", counts["passed"], f"({counts['skipped']} skipped, exit status {int(status)})")
    findings.add("tests for which no time was left", told.found - told.begun)
    findings.add("tests failed", counts["failed"], gate="== 0")


@contextmanager
def _required(context: Context) -> Iterator[None]:
    """On a GPU a test that would be skipped fails."""
    name = "DATAGO_GPU_REQUIRE_CUDA"
    os.environ.pop(name, None)
    if context.on_gpu:
        os.environ[name] = "1"
    yield
    os.environ.pop(name, None)


class Told:
    """A plugin of pytest that writes down each test as it begins, and what a failed one says."""

    def __init__(self, context: Context, findings: Findings) -> None:
        self._context, self._findings = context, findings
        self.counts: Counter[str] = Counter()
        self.found = self.begun = 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out what was begun before a crash."""
        items[:] = [item for item in items if item.nodeid not in self._findings.skip]

    def pytest_collection_finish(self, session: Any) -> None:
        self.found = len(session.items)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.begun += 1
        self._findings.begin(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.counts["failed"] += 1
            self._findings.error(report.nodeid, f"{report.when}: {report.longreprtext[-TEXT:]}")
        elif report.skipped:
            self.counts["skipped"] += 1
        elif report.when == "call":
            self.counts["passed"] += 1

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.counts["failed"] += 1
            self._findings.error(report.nodeid, report.longreprtext[-TEXT:])

    def pytest_runtest_protocol(self, item: Any) -> None:
        if not self._context.left_s():
            item.session.shouldstop = "no time was left"
