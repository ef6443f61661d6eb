"""The soak, short: every fault at once on both back ends. benchmarks/soak.py says what is looked at, and its gates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil")
SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.timeout(150)
@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_the_soak_holds_its_gates(backend: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    # It warms up for all of so short a time: memory is not held to much.
    limits = ["--hang", "30", "--close", "3", "--growth", "0.3"]
    arguments = ["--seconds", "30", "--backend", backend, "--count", "600", *limits]
    done = subprocess.run(
        [sys.executable, str(SOAK), *arguments], capture_output=True, text=True, timeout=140, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "0 wrong" in done.stdout
