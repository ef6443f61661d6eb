"""Ray Data, and the recipe for Ray Train, in a process of its own: Ray's processes are gone at its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.needs import needs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray makes sockets in it, whose paths may have 107 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, *arguments: str) -> str:
    """Runs a module in a process of its own. Returns what the process prints."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",  # of a cluster that listens on this machine only, for as long as the test
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process less for each attempt
    }
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_ray_data_and_ray_train(short_folder: Path) -> None:
    needs("ray")
    run(short_folder, "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "500", "tests/ray_on_one_machine.py")
