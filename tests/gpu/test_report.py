"""The whole GPU report on the CPU, small: so that its first minute on a GPU is not spent on a typo."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import NotHere
from tests.gpu.conftest import ROOT
from tools.gpu_report import findings, report, writing
from tools.gpu_report.findings import Finding, Findings
from tools.gpu_report.plan import CHECKS, TOTAL_S

Ran = tuple[dict[str, Any], str, int]
# They share one run, which the first of them waits for, whichever that is.
pytestmark = pytest.mark.timeout(600)  # 50 s of CPU time, which a busy machine gives slowly


@pytest.fixture(scope="module")
def ran(run_report: Callable[..., Ran]) -> Ran:
    return run_report("cpu")


def test_every_check_runs_and_none_misses_a_gate_or_breaks(ran: Ran) -> None:
    result, printed, status = ran
    statuses = {check["name"]: check["status"] for check in result["checks"]}
    assert list(statuses) == list(CHECKS)
    assert set(statuses.values()) <= {"pass", "info", "skipped"}, printed
    assert status == 0


def test_the_checks_that_the_cpu_can_judge_are_judged(ran: Ran) -> None:
    statuses = {check["name"]: check["status"] for check in ran[0]["checks"]}
    judged = ("smoke", "tests", "hazard", "handoff", "faults", "parity", "memory", "faults-by-kind", "encode")
    assert {name: statuses[name] for name in judged} == dict.fromkeys(judged, "pass")


def test_it_says_what_could_not_be_shown_here(ran: Ran) -> None:
    skipped = {each["name"] for check in ran[0]["checks"] for each in check["findings"] if each["kind"] == "skipped"}
    assert {"engines", "another stream", "the hazard without our guard"} <= skipped


def test_a_small_run_says_that_it_measures_nothing_and_gates_no_speed(ran: Ran) -> None:
    assert ran[0]["settings"]["small"]
    limit = next(check for check in ran[0]["checks"] if check["name"] == "limit")
    names = {each["name"] for each in limit["findings"]}
    assert {"500px: b / a", "500px: c / a", "500px: d / a"} <= names
    assert not any(each["gate"] for each in limit["findings"])


def test_the_table_comes_last_with_a_line_for_each_check(ran: Ran) -> None:
    last = ran[1].splitlines()[-len(CHECKS) :]
    assert [line.split()[0] for line in last] == list(CHECKS)


def test_what_cannot_be_imported_or_breaks_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    said = Findings(tmp_path / "said", "any", skip=["not again"])

    def absent() -> None:
        raise NotHere("no such engine")

    def unimportable() -> None:
        raise ModuleNotFoundError("No module named 'spdl'")

    said.part("absent", absent)
    said.part("unimportable", unimportable)
    said.part("breaks", lambda: 1 // 0)
    said.part("not again", lambda: said.add("ran", 1))
    said.part("works", lambda: said.add("figure", 3, "ms", "<= 4"))
    found = [each for each in findings.read(tmp_path / "said") if each.kind != "part"]
    assert found == [each for each in said.all if each.kind != "part"]
    assert [(each.kind, each.name) for each in found] == [
        ("skipped", "absent"),
        ("skipped", "unimportable"),
        ("error", "breaks"),
        ("figure", "figure"),
    ]
    assert found[-1].passed is True


@pytest.mark.parametrize(
    ("value", "gate", "passed"),
    [
        (4, "<= 4", True),
        (4.1, "<= 4", False),
        (0.95, ">= 0.95", True),
        (1, "== 0", False),
        (float("nan"), "<= 4", False),
    ],
)
def test_gates(value: float, gate: str, passed: bool) -> None:
    assert findings.judge(value, gate) is passed


def test_a_line_that_was_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    said = Findings(tmp_path / "said", "any")
    said.add("whole", 1)
    with (tmp_path / "said").open("a") as file:
        file.write('{"kind": "figure", "na')
    assert [each.name for each in findings.read(tmp_path / "said")] == ["whole"]
    with (tmp_path / "said").open("a") as file:
        file.write("\n")
    said.add("after it", 2)
    assert [each.name for each in findings.read(tmp_path / "said")] == ["whole", "after it"]


def test_a_check_that_crashes_is_taken_up_again_behind_the_part_that_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts: "a" works, "b" kills the process, "c" works."""
    runs: list[list[str]] = []

    def once(name: str, settings: dict[str, Any], _limit_s: float, _log: Path) -> str:
        runs.append(settings["skip"])
        said = Findings(Path(settings["findings"]), name, settings["skip"])
        said.part("a", lambda: said.add("of a", 1, "", "== 1"))
        if "b" not in settings["skip"]:
            said.part("b", lambda: None)
            return "killed by signal 11"
        said.part("c", lambda: said.add("of c", 1, "", "== 1"))
        return ""

    monkeypatch.setattr(report, "_run_once", once)
    Findings(tmp_path / "said", "another").part("not of this check", lambda: None)
    report.run_check("any", {"findings": str(tmp_path / "said")}, 60, tmp_path / "log")
    outcome = findings.outcomes(tmp_path / "said")[-1]
    assert runs == [[], ["a", "b"]]
    assert [each.name for each in outcome.findings if each.kind == "figure"] == ["of a", "of c"]
    assert outcome.crash == "killed by signal 11 in 'b'"
    assert outcome.status == "error"


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([("skipped", None)], "skipped"),
        ([("figure", None), ("skipped", None)], "info"),
        ([("figure", None), ("figure", True)], "pass"),
        ([("figure", True), ("figure", False)], "fail"),
        ([("figure", True), ("error", None)], "error"),
    ],
)
def test_the_status_of_a_check(kinds: list[tuple[str, bool | None]], status: str) -> None:
    outcome = findings.Outcome("any", findings=[Finding(kind, "x", 1, passed=passed) for kind, passed in kinds])
    assert outcome.status == status


def arguments(out: Path, seconds: float = 60.0) -> argparse.Namespace:
    return argparse.Namespace(out=out, seconds=seconds, device="cpu", small=True, stretch=1.0)


def made(out: Path) -> writing.Report:
    return writing.Report(out, {"device": "cpu", "small": True})


def test_checks_for_which_no_time_is_left_are_named(tmp_path: Path) -> None:
    found = made(tmp_path)
    report.run_checks(["parity", "sweep"], arguments(tmp_path, seconds=0.0), tmp_path, found)
    assert [(outcome.name, outcome.status) for outcome in found.outcomes] == [
        ("parity", "skipped"),
        ("sweep", "skipped"),
    ]


@pytest.mark.parametrize(("smoke", "rest"), [(1, ["pass", "pass"]), (0, ["skipped", "skipped"])])
def test_where_the_smoke_test_fails_nothing_else_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke: int, rest: list[str]
) -> None:
    def once(name: str, settings: dict[str, Any], _limit_s: float, _log: Path) -> str:
        Findings(Path(settings["findings"]), name).add("right", smoke if name == "smoke" else 1, gate="== 1")
        return ""

    monkeypatch.setattr(report, "_run_once", once)
    found = made(tmp_path)
    report.run_checks(["smoke", "hazard", "limit"], arguments(tmp_path), tmp_path, found)
    assert [outcome.status for outcome in found.outcomes][1:] == rest


def test_what_is_gated_is_printed_when_its_check_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def once(name: str, settings: dict[str, Any], _limit_s: float, _log: Path) -> str:
        said = Findings(Path(settings["findings"]), name)
        said.add("not gated", 5)
        said.add("good enough", 3, "ms", "<= 4")
        said.add("too slow", 0.7, gate=">= 0.95")
        said.error("broken", "ValueError: no")
        return ""

    monkeypatch.setattr(report, "_run_once", once)
    report.run_checks(["hazard"], arguments(tmp_path), tmp_path, made(tmp_path))
    printed = capsys.readouterr().out
    assert "MISSED too slow: 0.7  >= 0.95" in printed
    assert "ERROR broken: ValueError: no" in printed
    assert "passed good enough: 3 ms <= 4" in printed
    assert "not gated" not in printed


def test_what_the_first_flight_runs_takes_six_minutes_and_destroys_last() -> None:
    names = list(CHECKS)
    first = names[: names.index("memory") + 1]
    assert sum(CHECKS[name].seconds for name in first) + 20 <= TOTAL_S
    assert (names[0], names[-1]) == ("smoke", "hazard-unguarded")
    assert [name for name in names if CHECKS[name].decides] == ["smoke"]


@contextmanager
def running(out: Path, *checks: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tools.gpu_report.report", "--small", "--device", "cpu", "--out", str(out)]
    process = subprocess.Popen([*command, "--only", *checks], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], start: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return
    pytest.fail(f"the report ended without a line that starts with {start!r}")


def of_this_report(out: Path) -> list[int]:
    """The processes of checks that write into `out`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:  # gone meanwhile
                continue
            if b"tools.gpu_report.check" in command and str(out).encode() in command:
                found.append(int(entry.name))
    return found


def test_a_report_that_is_killed_keeps_the_check_that_was_done_and_ends_the_one_that_runs(tmp_path: Path) -> None:
    with running(tmp_path, "encode", "limit") as process:
        read_until(process, "encode: pass")
        while not any(each.check == "limit" for each in findings.read(tmp_path / "findings.jsonl")):
            assert process.poll() is None  # the next check is about to begin
        (check,) = of_this_report(tmp_path)
        ended = os.pidfd_open(check)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (found,) = json.loads((tmp_path / "report.json").read_text())["checks"]
    assert (found["name"], found["status"]) == ("encode", "pass")
    assert any(each["passed"] for each in found["findings"])
    assert "## encode: pass" in (tmp_path / "report.md").read_text()
    assert select.select([ended], [], [], 30)[0], "the check outlives its report"
    os.close(ended)

    again = [sys.executable, "-m", "tools.gpu_report.report", "--rewrite", "--out", str(tmp_path)]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    checks = {each["name"]: each for each in json.loads((tmp_path / "report.json").read_text())["checks"]}
    assert checks["encode"]["status"] == "pass"
    assert checks["limit"]["crash"].startswith("cut off")


def test_a_report_that_is_killed_before_its_first_check_is_a_report(tmp_path: Path) -> None:
    with running(tmp_path, "encode") as process:
        read_until(process, "photographs")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert json.loads((tmp_path / "report.json").read_text())["checks"] == []
    assert not list(tmp_path.glob("*.new"))


FOUR_TESTS = """
import os, pytest
pytestmark = pytest.mark.cuda
def test_works(): pass
def test_fails(): assert 1 == 2
def test_crashes(): os.abort()
def test_behind_it(): pass
"""
RUN_TESTS = """
import sys
from pathlib import Path
from tools.gpu_report.checks import tests
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
tests.WHERE = (sys.argv[1],)
tests.run(Context("cpu", Path("."), 60.0), Findings(Path(sys.argv[2]), "tests", sys.argv[3:]))
"""


def test_each_test_of_the_suite_is_written_down_before_it_runs(tmp_path: Path) -> None:
    """A failed one says why, one that crashes is left out when the check is taken up again."""
    suite, said = tmp_path / "test_four.py", tmp_path / "said"
    suite.write_text(FOUR_TESTS)

    def run(*skip: str) -> int:
        command = [sys.executable, "-c", RUN_TESTS, str(suite), str(said), *skip]
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=50, check=False).returncode

    assert run() == -signal.SIGABRT
    begun = [each.name for each in findings.read(said) if each.kind == "part"]
    assert [name.rpartition("::")[2] for name in begun] == ["test_works", "test_fails", "test_crashes"]
    (error,) = [each for each in findings.read(said) if each.kind == "error"]
    assert error.name == begun[1]
    assert "assert 1 == 2" in error.value
    assert run(*begun) == 0
    figures = {each.name: each.value for each in findings.read(said) if each.kind == "figure"}
    assert (figures["tests found"], figures["tests passed"], figures["tests failed"]) == (4, 1, 0)
