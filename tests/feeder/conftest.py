"""What tests of real feeder processes share."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No process and no descriptor stays behind."""
    process = psutil.Process()
    children, descriptors = set(process.children(recursive=True)), process.num_fds()
    yield
    assert set(process.children(recursive=True)) <= children
    assert process.num_fds() == descriptors
