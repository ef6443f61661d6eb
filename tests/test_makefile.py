"""What `make` installs for whom."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

if shutil.which("make") is None or not (ROOT / "Makefile").exists():
    pytest.skip("needs make, and the Makefile", allow_module_level=True)


def planned(tmp_path: Path, *arguments: str, gpu: bool) -> str:
    """What `make` would do. gpu: nvidia-smi lists one; else it fails, as it does without a driver."""
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nexit {0 if gpu else 9}\n")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("CUDA", None)
    environment.pop("MAKEFLAGS", None)
    command = ["make", "-n", f"VENV={tmp_path}/venv", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "gpu", "package"),
    [
        (["demo"], False, "--editable .\n"),
        (["demo"], True, "--editable '.[cuda12]'\n"),
        (["demo", "CUDA=cuda13"], False, "--editable '.[cuda13]'\n"),
        (["demo", "CUDA="], True, "--editable .\n"),
        (["gpu-report"], False, "--editable '.[cuda12]'\n"),
        (["gpu-probe", "CUDA=cuda13"], True, "--editable '.[cuda13]'\n"),
    ],
)
def test_cuda_is_installed_where_there_is_a_gpu_and_make_says_so_first(
    tmp_path: Path, arguments: list[str], gpu: bool, package: str
) -> None:
    lines = planned(tmp_path, *arguments, gpu=gpu)
    assert lines.count("pip install") == lines.count(package) == 1
    assert ("light core" in lines) == ("cuda" not in package)
    assert lines.index("echo") < lines.index("pip install")
