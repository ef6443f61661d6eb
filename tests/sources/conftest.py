"""A server that can be told to misbehave, and a listing of images on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.listing import Listing, names
from tests.support.servers import MisbehavingServer


@pytest.fixture(scope="module")
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


@pytest.fixture
def listing(server: MisbehavingServer) -> Listing:
    server.requests.clear()
    return Listing(server, names(53))
