"""What tests of the feeder share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psutil
import pytest

from datago_gpu import eventloop
from tests.support.patience import end_of_loaders
from tests.support.servers import MisbehavingServer


@pytest.fixture(scope="module")
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


@pytest.fixture(scope="session")
def first_loop() -> None:
    """libuv opens a pipe for the first event loop of a process, and keeps it."""
    eventloop.run(asyncio.sleep(0))


@pytest.fixture
def nothing_left(first_loop: None) -> Iterator[None]:
    """No process and no descriptor stays behind."""
    end_of_loaders()
    process = psutil.Process()
    children, descriptors = set(process.children(recursive=True)), process.num_fds()
    yield
    assert set(process.children(recursive=True)) <= children
    end_of_loaders()  # with a collection: the traceback of an error may hold a batch, and the batch its memory
    assert process.num_fds() == descriptors
