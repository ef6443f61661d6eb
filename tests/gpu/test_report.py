"""The whole GPU report on the CPU, small: so that its first minute on a GPU is not spent on a typo."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import findings, report
from benchmarks.gpu.findings import Finding, Findings, NotHere

Ran = tuple[dict[str, Any], str, int]
# They share one run, which the first of them waits for, whichever that is.
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def ran(run_report: Callable[..., Ran]) -> Ran:
    return run_report("cpu")


def test_every_check_runs_and_none_misses_a_gate_or_breaks(ran: Ran) -> None:
    result, printed, status = ran
    statuses = {check["name"]: check["status"] for check in result["checks"]}
    assert list(statuses) == list(report.CHECKS)
    assert set(statuses.values()) <= {"pass", "info", "skipped"}, printed
    assert status == 0


def test_the_checks_that_the_cpu_can_judge_are_judged(ran: Ran) -> None:
    statuses = {check["name"]: check["status"] for check in ran[0]["checks"]}
    judged = ("parity", "hazard", "handoff", "faults", "memory", "encode")
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
    last = ran[1].splitlines()[-len(report.CHECKS) :]
    assert [line.split()[0] for line in last] == list(report.CHECKS)


def test_what_cannot_be_imported_or_breaks_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    said = Findings(tmp_path / "said", skip=["not again"])

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
    said = Findings(tmp_path / "said")
    said.add("whole", 1)
    with (tmp_path / "said").open("a") as file:
        file.write('{"kind": "figure", "na')
    assert [each.name for each in findings.read(tmp_path / "said")] == ["whole"]


def test_a_check_that_crashes_is_taken_up_again_behind_the_part_that_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts: "a" works, "b" kills the process, "c" works."""
    runs: list[list[str]] = []

    def once(_name: str, settings: dict[str, Any], _limit_s: float, _log: Path) -> str:
        runs.append(settings["skip"])
        said = Findings(Path(settings["findings"]), settings["skip"])
        said.part("a", lambda: said.add("of a", 1, "", "== 1"))
        if "b" not in settings["skip"]:
            said.part("b", lambda: None)
            return "killed by signal 11"
        said.part("c", lambda: said.add("of c", 1, "", "== 1"))
        return ""

    monkeypatch.setattr(report, "_run_once", once)
    outcome = report.run_check("any", {"findings": str(tmp_path / "said")}, 60, tmp_path / "log")
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


def test_checks_for_which_no_time_is_left_are_named(tmp_path: Path) -> None:
    args = argparse.Namespace(out=tmp_path, seconds=0.0, device="cpu", small=True)
    outcomes = report.run_checks(["parity", "sweep"], args, tmp_path, began=0.0, machine={"packages": {}})
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [("parity", "skipped"), ("sweep", "skipped")]


def test_a_killed_report_leaves_the_checks_that_had_ended(tmp_path: Path) -> None:
    """And what the check that was running had said by then. `encode` ends soon, `hazard` takes longer."""
    command = [sys.executable, "-m", "benchmarks.gpu.report", "--small", "--device", "cpu", "--out", str(tmp_path)]
    command += ["--only", "encode", "hazard", "memory"]
    with subprocess.Popen(command, cwd=report.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        printed = []
        for line in process.stdout:  # "hazard ..." has no end of line before the check ends
            printed.append(line)
            if line.startswith("  passed nvImageCodec: decoded again"):
                break
        process.stdout.read(len("hazard ..."))  # by then the report has been written
        process.kill()
        process.wait()
    left = json.loads((tmp_path / "report.json").read_text())
    assert [(check["name"], check["status"]) for check in left["checks"]] == [("encode", "pass")]
    assert "## encode: pass" in (tmp_path / "report.md").read_text()
    assert findings.read(tmp_path / "findings" / "encode.jsonl")
    assert any(line.startswith("  passed nvImageCodec: images not encoded: 0, gate == 0") for line in printed)
