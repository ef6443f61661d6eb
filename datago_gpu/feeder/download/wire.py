"""What a feeder and a process that downloads for it say to each other. Framed as in `datago_gpu.feeder.wire`.

Payloads lie in memory that both share, and stay there until the feeder has taken them.
"""

from __future__ import annotations

import logging

from msgspec import Struct

from datago_gpu.config import HttpConfig
from datago_gpu.feeder.wire import Notice
from datago_gpu.sources.http.failure import HttpFailure, Try

__all__ = ["Failure", "Orders", "Results", "Setup", "as_exception", "as_failure"]


class Setup(Struct, frozen=True):
    """The first message to the process."""

    http: HttpConfig
    log_level: int = logging.WARNING
    """Messages of this level and above are wanted."""


class Orders(Struct, frozen=True, array_like=True):
    """To the process."""

    wanted: list[tuple[int, str, int]]
    """Number, address, and the most bytes that it may have."""
    taken: list[int]
    """Numbers of payloads whose memory may be written again."""
    granted: list[int]
    """Numbers of payloads that may have the memory that was asked for."""


class Failure(Struct, frozen=True, array_like=True):
    """An HttpFailure."""

    reason: str
    detail: str
    status: int
    text: str
    url: str
    tries: int
    row: list[Try]


class Results(Struct, frozen=True, array_like=True):
    """To the feeder, in any order."""

    arrived: list[tuple[int, int, int]]
    """Number, offset in the memory, bytes."""
    failed: list[tuple[int, Failure]]
    asking: list[tuple[int, int]]
    """Number, and the bytes that there has to be room for before it goes on."""
    notices: list[Notice] = []


def as_failure(error: HttpFailure) -> Failure:
    """What to tell of it."""
    return Failure(error.reason, error.detail, error.status, error.text, error.url, error.tries, list(error.row))


def as_exception(failure: Failure) -> HttpFailure:
    """What was told, but for whether the server is down, which no process can tell alone."""
    error = HttpFailure(failure.reason, failure.detail, status=failure.status, text=failure.text)
    error.url, error.tries, error.row = failure.url, failure.tries, failure.row
    return error
