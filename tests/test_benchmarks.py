"""The benchmarks run, small: they would rot otherwise. What they measure is not looked at."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from benchmarks.in_turn import in_turn, medians
from benchmarks.run import PARTS
from benchmarks.suite import report
from benchmarks.suite.figures import Figures, Table
from benchmarks.suite.peers import Stalled
from benchmarks.suite.programs import PROGRAMS, Program

ROOT = Path(__file__).parent.parent
BEGIN, END = report.marks("measured")
NGINX = bool(shutil.which("nginx") or Path("/usr/sbin/nginx").exists())
PLOTS = ("throughput-local.png", "throughput-dataroom.png", "first-batch-local.png", "stages.png", "speed.svg")
needs_nginx = pytest.mark.skipif(not NGINX, reason="nginx is not installed")


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{script.removesuffix('.py')}", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=190, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the pictures of all tests that want the same ones."""
    return tmp_path_factory.mktemp("material")


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a benchmark in this process, which has imported what it needs, and returns what it prints."""

    def run(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        importlib.import_module(f"benchmarks.{script}").main()
        return capsys.readouterr().out

    return run


def test_processes_of_benchmarks_may_keep_compiled_modules() -> None:
    """Else each start of a loader compiles the package, which that of an installed peer does not."""
    show = "import benchmarks, os; print(os.environ.get('PYTHONDONTWRITEBYTECODE'))"
    command, environment = [sys.executable, "-c", show], {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == "None\n"


def compare(out: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What is printed, and the tables of all calls with this folder."""
    small = ("--runs", "1", "--scale", "0.005", "--tree", "2000", "--idle-s", "0.1", "--out", str(out))
    printed = run("run.py", *small, "--material", str(out / "material"), "--only", *arguments)
    tables = json.loads((out / "figures.json").read_text())["tables"]
    for name, table in tables.items():
        if "skipped" in table["absent"]:  # no TUN devices here, or no right to them
            assert "ms" in name, table
            continue
        assert table["runs"]["datago_gpu"], name
        assert all(said.startswith(("not installed", "cannot")) for said in table["absent"].values()), table["absent"]
    return printed, tables


@pytest.mark.timeout(400)
def test_every_peer_takes_part_in_what_it_can_do_and_ours_is_near_its_limit(tmp_path: Path) -> None:
    """In several calls, whose figures are kept together."""
    printed, tables = compare(tmp_path, "million", "buffer", "--python", "torch=/nowhere/python")
    assert all(peer in printed for peer in ("datago", "torch", "webdataset", "SPDL", "LitData", "DALI", "limit"))
    before = {"million", "million-shuffled", *(["shards-buffer"] if NGINX else [])}
    assert before == set(tables)
    report = (tmp_path / "report.md").read_text()
    assert "webdataset | cannot: it reads shards" in report
    assert (tmp_path / "first-batch-million.png").stat().st_size
    _, tables = compare(tmp_path, "local", "dataroom", "idle", "--who", "ours", "ram")
    assert {"500px-224", "2.5mp-512", "2.5mp-1024", "dataroom", "dataroom-masks"} == set(tables) - before
    report = (tmp_path / "report.md").read_text()
    assert "webdataset | cannot: it reads shards" in report
    assert "How busy each stage was" in report
    assert "local shards, interleave 8 | " in report
    assert all((tmp_path / plot).stat().st_size for plot in PLOTS)


@needs_nginx
@pytest.mark.timeout(400)
def test_what_comes_over_http(tmp_path: Path) -> None:
    compare(tmp_path, "apart", "--who", "ours")
    _, tables = compare(tmp_path, "shards", "payloads", "--who", "ours", "aiohttp", "--distances", "100ms-loss")
    assert {"shards-apart", "dataroom-apart", "dataroom-masks-apart"} <= set(tables)
    assert tables["shards-near"]["runs"]["datago_gpu"][0]["images"] == 32
    far = tables["shards-100ms-loss"]["runs"].get("datago_gpu", [])
    assert all(run["first_s"] > 0.1 for run in far)  # at least one round trip
    payloads = tables["payloads-40"]["runs"]
    assert payloads.keys() >= {"datago_gpu", "limit: aiohttp alone"}
    assert all(run["bytes"] == 40_000 * run["images"] for runs in payloads.values() for run in runs)


def test_the_page_of_figures_gets_the_medians_and_the_report_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "DOCS", tmp_path)
    won = "<!-- won: begin -->\nold\n<!-- won: end -->"
    (tmp_path / "performance.md").write_text(f"before\n{BEGIN}\nold\n{END}\n{won}\nbehind\n")
    (tmp_path / "plot.png").write_bytes(b"a plot")
    (tmp_path / "speed.svg").write_bytes(b"a chart")
    runs = {"datago_gpu": [300, 100, 200], "torch": [50], "limit: RAM": [400]}
    table = Table("files", "images/s", {name: [{"images": n, "seconds": 1} for n in of] for name, of in runs.items()})
    table.absent["webdataset"] = "cannot: it reads shards"
    figures = Figures(tmp_path / "figures.json", "a machine", "2026-11-29", tables={"files": table})
    report.into_docs(figures, [tmp_path / "plot.png", tmp_path / "speed.svg"])
    page = (tmp_path / "performance.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("\nbehind\n")
    assert "| files | 200 | 50 | 50% |" in page
    assert "webdataset" not in page
    assert "| files |  | 4.00: torch | won |\n\n<!-- won: end -->" in page
    whole = (tmp_path / "performance" / "report.md").read_text()
    assert "| datago_gpu | 200 (100 to 300) |" in whole
    assert "| torch | 50 (50 to 50) |  | 4.00 x |" in whole
    assert "| webdataset | cannot: it reads shards |" in whole
    assert "![plot](plot.png)" in whole
    assert "a machine. Measured on 2026-11-29." in whole
    assert (tmp_path / "pictures" / "speed.svg").read_bytes() == b"a chart"
    assert (tmp_path / "performance" / "plot.png").read_bytes() == b"a plot"


@pytest.mark.parametrize("mark", [BEGIN, END])
def test_the_page_of_figures_has_its_marks(mark: str) -> None:
    assert (report.DOCS / "performance.md").read_text().count(mark) == 1


@pytest.mark.timeout(400)
def test_trainer(material: Path, run_here: Callable[..., str]) -> None:
    few = ("--pictures", "40", "--material", str(material))
    calls = run("trainer.py", "--small-calls", "--runs", "1", "--steps", "20", *few)
    assert all(f"| {name} | " in calls for name in ("CPU burners", "ours", "ours, threads"))
    scaled = run_here("scaling", "--processes", "3", "--images", "200", "--sleep-ms", "0.1", *few)
    assert scaled.splitlines()[-1].startswith("| 3 | ")
    assert "of its time alone" in run_here("trainer", "--runs", "1", "--steps", "40", "--backend", "pillow", *few)


def test_the_hand_over_is_measured_by_its_parts(run_here: Callable[..., str]) -> None:
    printed = run_here("handover", "--runs", "1", "--batch-size", "8", "--backend", "dali")
    parts = ("DALI: outputs", "looking at payloads", "handing over", "in all")
    assert all(part in printed for part in parts)


def test_a_run_has_benchmarks_of_their_own_and_a_cache_as_its_parts(
    tmp_path: Path, material: Path, run_here: Callable[..., str]
) -> None:
    """A part that fails is named, and the others are measured all the same."""
    few = ("--runs", "1", "--scale", "0.01", "--who", "nobody", "--material", str(material), "--out", str(tmp_path))
    (tmp_path / "figures.json").write_text('{"notes": ["Failed: lockstep, as it did before."], "tables": {}}')
    failing = {"broken": Program("Broken", "no_such_benchmark")}
    with patch.dict(PROGRAMS, failing), patch("benchmarks.run.PARTS", (*PARTS, *failing)), pytest.raises(SystemExit):
        run_here("run", "--only", "broken", "lockstep", "cache", *few)
    figures = Figures.read(tmp_path / "figures.json")
    whole = (tmp_path / "report.md").read_text()
    assert "| lockstep | " in whole
    assert "% of the images a second" in whole
    assert "Minutes: 0 in all; lockstep 0." in whole
    assert "Failed: broken, as " in whole
    assert "Failed: lockstep" not in whole
    assert len(figures.tables["cache-dataroom"].runs) == 3


def test_a_page_of_figures_gets_the_tables_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "DOCS", tmp_path)
    marks = f"{BEGIN}\n{END}\n<!-- views: begin -->\nold\n<!-- views: end -->\nbehind\n"
    (tmp_path / "performance.md").write_text(marks)
    programs = {part: {"title": part, "text": f"| {part} |", "load": "1.0"} for part in ("views", "crops")}
    report.into_docs(Figures(tmp_path / "figures.json", programs=programs), [])
    page = (tmp_path / "performance.md").read_text()
    assert page.endswith("in brackets where it was run more than once.\n\n| views |\n\n<!-- views: end -->\nbehind\n")
    assert "old" not in page
    assert "crops" not in page
    assert "**crops** (load average 1.0" in (tmp_path / "performance" / "report.md").read_text()


def test_random_crops_are_compared_with_the_centre_s(material: Path, run_here: Callable[..., str]) -> None:
    printed = run_here("crops", *few_pictures(material), "--python", "/nowhere/python")
    assert "| random_resized, flips | " in printed
    assert "of the images a second of centre" in printed


@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_views_are_compared_with_a_run_for_each(material: Path, backend: str, run_here: Callable[..., str]) -> None:
    printed = run_here("views", *few_pictures(material), "--backend", backend)
    assert "| decoding once for each view | " in printed
    assert "times as fast as decoding once for each view" in printed


def test_rows_of_tables_are_measured(tmp_path: Path, run_here: Callable[..., str]) -> None:
    few = ("--rows", "300", "--read", "100", "--only", "Parquet, shuffled")
    assert "| Parquet, shuffled | " in run_here("table_rows", *few, "--material", str(tmp_path))


def test_rows_of_a_program_are_compared_with_a_folder(material: Path, run_here: Callable[..., str]) -> None:
    printed = run_here("own_rows", *few_pictures(material))
    assert all(
        f"| {kind} | " in printed for kind in ("a folder", "rows by path", "rows by bytes", "a generator of bytes")
    )


def test_an_index_is_made_of_shards(tmp_path: Path, run_here: Callable[..., str]) -> None:
    few = ("--runs", "1", "--count", "30", "--only", "shards", "--no-updates")
    assert "| shards | 6 |" in run_here("indexing", *few, "--material", str(tmp_path))


def test_the_first_of_several_runs_does_not_count() -> None:
    """It warms the page cache. A single run counts."""
    turns = iter(range(10))
    found = in_turn(3, {"a": lambda: [float(next(turns))]})
    assert found == {"a": [(1.0, 2.0, 3.0)]}
    assert medians(found) == {"a": [2.0]}
    assert in_turn(1, {"a": lambda: [float(next(turns))]}) == {"a": [(4.0,)]}


STUCK = f"""
import ctypes, os, sys
sys.path.insert(0, {str(ROOT / "benchmarks" / "peers")!r})
from harness import main

def dataroom(spec):
    yield 1
    mark = __file__ + ".started"
    if not os.path.exists(mark):
        open(mark, "w").close()
        ctypes.PyDLL(None).pause()  # with the GIL held, until a signal comes
    yield spec.count - 1

main({{"json": "pip"}}, {{"dataroom": dataroom}})
"""


def test_a_peer_that_stops_delivering_is_told_from_a_slow_one(tmp_path: Path) -> None:
    (tmp_path / "stuck_peer.py").write_text(STUCK)
    few = ("--starts", "3", "--limit", "1.5", "--count", "8", "--material", str(tmp_path))
    printed = run("stalls.py", "--peer", str(tmp_path / "stuck"), *few).splitlines()
    assert printed[-1].startswith("stuck: 1 of 3 starts stalled (no sample for 1.5 s). Longest wait of the others: 0.")


def test_a_run_that_stalled_is_named_and_is_not_in_the_median(tmp_path: Path) -> None:
    answers: Iterator[dict[str, Any]] = iter([{"images": 100, "seconds": 1}, {"images": 300, "seconds": 1}])

    def contestant() -> dict[str, Any]:
        if (made := next(answers, None)) is None:
            raise Stalled("Timeout (0:00:20)!")
        return made

    table = Table("files", "images/s")
    table.measure({"datago": contestant}, runs=3)
    shown = report.markdown(Figures(tmp_path / "figures.json", tables={"files": table}))
    assert "| datago | 200 (100 to 300) |" in shown
    assert "Stalled: datago, 1 of 3 runs: no batch for 20 s." in shown
    table.measure({"SPDL": contestant}, runs=2)
    assert table.absent["SPDL"] == "stalled: all 2 runs, each 20 s without a batch"


def few_pictures(material: Path) -> tuple[str, ...]:
    """Arguments of a short run."""
    return "--runs", "1", "--count", "40", "--batch-size", "8", "--material", str(material)
