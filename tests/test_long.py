"""The long tests that have no file of their own, each in a short form. tests/long/ says what they look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"tests.long.{name}", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=190, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.timeout(400)
def test_memory_growth(tmp_path: Path) -> None:
    printed = run("memory_growth", "--samples", "3000", "--growth", "1", "--material", str(tmp_path))
    assert "growth" in printed


@pytest.mark.timeout(400)
def test_memory_bounds(tmp_path: Path) -> None:
    only = ("--only", "ordinary", "unpack to")
    printed = run("memory_bounds", *only, "--material", str(tmp_path), "--out", str(tmp_path / "table.md"))
    assert "all within what the settings promise" in printed
    assert (tmp_path / "table.md").read_text().count("| ok") == 3


@pytest.mark.timeout(400)
def test_stragglers() -> None:
    printed = run("stragglers", "--runs", "1", "--count", "400", "--late", "0.5", "--target", "0")
    assert printed.count("ratio") == 2


def test_odd_exif() -> None:
    """In a process of its own: where DALI gets two EXIF segments of one JPEG, it crashes."""
    printed = run("odd_exif", "--files", "320", "--batches", "8")
    assert ": 0 turned otherwise" in printed
    assert ": 0 good ones changed" in printed
