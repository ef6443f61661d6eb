"""SIGINT reaches what a test starts, however the suite itself was started."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import interruptible

CHILD = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('heard nothing')"]


@pytest.fixture
def _ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ignored")
def test_a_suite_that_ignores_sigint_starts_processes_that_do_not() -> None:
    assert subprocess.run(CHILD, capture_output=True, timeout=50).returncode == 0
    with interruptible():
        assert subprocess.run(CHILD, capture_output=True, timeout=50).returncode == -signal.SIGINT
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
