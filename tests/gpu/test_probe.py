"""What runs on a bare GPU machine: the probe anywhere, the report with few packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.conftest import ROOT
from tools.gpu_report import probe

CARRIED = {"nvidia", "cykooz_resizer", "msgspec", "simplejpeg", "braceexpand"}
"""What docs/gpu/README.md says has to be brought to a machine that has torch and cupy."""
THERE = {"numpy", "PIL", "aiohttp", "uvloop", "yarl", "click", "rich", "cupy", "torch"}
"""What an image with PyTorch, JAX and cupy has."""
NOT_MISSED = {"jax", "lightning", "pyarrow", "ray", "transformers"}
"""Imported only where a table is read, or with the module for a framework: the report does neither."""


def test_the_probe_answers_all_on_any_machine_and_leaves_it_in_a_file(tmp_path: Path) -> None:
    """From elsewhere, and without this project on the path."""
    command = [sys.executable, str(ROOT / "tools/gpu_report/probe.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines == (tmp_path / "out/probe.txt").read_text().splitlines()
    for question in probe.QUESTIONS:
        assert any(line.startswith(f"{question}: ") for line in lines), question


def test_a_question_whose_process_dies_or_says_nothing_is_answered_so() -> None:
    assert probe.ask("print('first'); print('last')") == "last"
    assert probe.ask("import os; print('said'); os.abort()").startswith("exit status -6")
    assert probe.ask("raise ValueError('this')").endswith("ValueError: this")


def test_a_question_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.2)
    assert probe.ask("import signal; signal.pause()").startswith("no answer")


def imported(file: Path) -> Iterator[str]:
    """Modules that a file imports when it is itself imported, not in a function or for types alone."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", ["tools/gpu_report", "benchmarks/suite", "datago_gpu"])
def test_the_report_imports_nothing_that_the_machine_lacks(folder: str) -> None:
    """A package that is missing there would cost the flight its first minutes."""
    ours = {"benchmarks", "tools", "datago_gpu"} | set(sys.stdlib_module_names)
    for file in (ROOT / folder).rglob("*.py"):
        strange = set(imported(file)) - ours - CARRIED - THERE - NOT_MISSED
        assert not strange, file
