"""The benchmarks run, small: they would rot otherwise. What they measure is not looked at."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True, timeout=170, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.timeout(180)
def test_against_datago(tmp_path: Path) -> None:
    pytest.importorskip("datago")
    printed = run("against_datago.py", "--runs", "1", "--scale", "0.01", "--material", str(tmp_path))
    assert printed.count("ratio") == 3


@pytest.mark.timeout(180)
def test_feeder(tmp_path: Path) -> None:
    if not (shutil.which("nginx") or Path("/usr/sbin/nginx").exists()):
        pytest.skip("nginx is not installed")
    printed = run("feeder.py", "--runs", "1", "--count", "1000", "--material", str(tmp_path))
    assert printed.count("ratio") == 2


@pytest.mark.timeout(180)
def test_trainer(tmp_path: Path) -> None:
    printed = run("trainer.py", "--runs", "1", "--steps", "40", "--backend", "pillow", "--material", str(tmp_path))
    assert "ratio" in printed


@pytest.mark.timeout(180)
def test_memory(tmp_path: Path) -> None:
    printed = run("memory.py", "--samples", "3000", "--material", str(tmp_path))
    assert "growth" in printed


@pytest.mark.timeout(180)
def test_stragglers() -> None:
    printed = run("stragglers.py", "--runs", "1", "--count", "400", "--late", "0.5")
    assert printed.count("ratio") == 2
