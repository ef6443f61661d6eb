"""Runs the command line as a user does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_command(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `datago-gpu` with these arguments. environment: variables that it gets besides those of this process."""
    return subprocess.run(
        [sys.executable, "-m", "datago_gpu.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
