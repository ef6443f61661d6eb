"""Where the checks of the GPU report run in the suite: on the CPU always, on a GPU where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gpus import usable

ROOT = Path(__file__).parents[2]
Report = dict[str, Any]


@pytest.fixture(scope="session")
def run_report(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Report, str, int]]:
    """`run_report(device, *checks)` -> report.json, what was printed, the exit status. Small; all checks if none."""

    def run(device: str, *checks: str) -> tuple[Report, str, int]:
        out = tmp_path_factory.mktemp("report")
        command = [sys.executable, "-m", "tools.gpu_report.report", "--small", "--device", device, "--out", str(out)]
        command += ["--seconds", "580", "--stretch", "4"]  # the machine may be busy
        command += ["--only", *checks] if checks else []
        command += ["--keep", str(tmp_path_factory.getbasetemp() / "gpu-report")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (out / "report.json").exists(), done.stderr
        print((out / "log.txt").read_text())  # shown where a test fails
        return json.loads((out / "report.json").read_text()), done.stdout, done.returncode

    return run


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Without a GPU, "cuda" skips, and fails under DATAGO_GPU_REQUIRE_CUDA=1."""
    return usable(request.param)


@pytest.fixture
def cuda() -> str:
    return usable("cuda")
