"""The benchmarks run, small: they would rot otherwise. What they measure is not looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NGINX = bool(shutil.which("nginx") or Path("/usr/sbin/nginx").exists())


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{script.removesuffix('.py')}", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=190, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.timeout(400)
def test_the_comparison_with_peers(tmp_path: Path) -> None:
    """In several calls, whose figures are kept together."""
    small = ("--runs", "1", "--scale", "0.005", "--material", str(tmp_path / "material"), "--out", str(tmp_path))
    parts = ("local", "dataroom", "million", "idle")
    printed = run("run.py", *small, "--only", *parts, "--tree", "2000", "--idle-s", "0.1")
    assert all(peer in printed for peer in ("datago", "torch", "webdataset", "SPDL", "LitData", "DALI", "limit"))
    if NGINX:
        run("run.py", *small, "--only", "buffer", "--python", "torch=/nowhere/python")
        run("run.py", *small, "--only", "shards", "payloads", "--who", "ours", "aiohttp")
        run("run.py", *small, "--only", "apart", "--who", "ours", "ram")
    _check_figures(json.loads((tmp_path / "figures.json").read_text())["tables"])
    report = (tmp_path / "report.md").read_text()
    assert "webdataset | cannot: it reads shards" in report
    assert "How busy each stage was" in report
    assert "local shards, interleave 8 | " in report
    assert all((tmp_path / plot).stat().st_size for plot in ("throughput.png", "first-batch.png", "stages.png"))


def _check_figures(tables: dict[str, Any]) -> None:
    assert {"500px-224", "2.5mp-512", "2.5mp-1024", "dataroom", "dataroom-masks", "million"} <= set(tables)
    for name, table in tables.items():
        if "skipped" in table["absent"]:  # no TUN devices here, or no right to them
            assert "ms" in name, table
            continue
        assert table["runs"]["datago_gpu"], name
        assert all(said.startswith(("not installed", "cannot")) for said in table["absent"].values()), table["absent"]
    if NGINX:
        assert tables["shards-near"]["runs"]["datago_gpu"][0]["images"] == 32
        far = tables["shards-100ms"]["runs"].get("datago_gpu", [])
        assert all(run["first_s"] > 0.1 for run in far)  # at least one round trip
        assert tables["payloads-40"]["runs"].keys() >= {"datago_gpu", "limit: aiohttp alone"}
        for run in (run for runs in tables["payloads-40"]["runs"].values() for run in runs):
            assert run["bytes"] == 40_000 * run["images"]


@pytest.mark.timeout(400)
def test_trainer(tmp_path: Path) -> None:
    printed = run("trainer.py", "--runs", "1", "--steps", "40", "--backend", "pillow", "--material", str(tmp_path))
    assert "ratio" in printed
