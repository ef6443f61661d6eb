"""The soak, short: every fault at once on both back ends. tests/long/soak.py says what is looked at, and its gates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_the_soak_holds_its_gates(backend: str) -> None:
    # Memory grows for all of so short a time, and the machine may be busy: neither is held to much.
    limits = ["--hang", "60", "--close", "10", "--growth", "1"]
    arguments = ["--seconds", "8", "--backend", backend, "--count", "300", *limits]
    command = [sys.executable, "-m", "tests.long.soak", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "0 wrong" in done.stdout
