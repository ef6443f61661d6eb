"""Defines the messages between a feeder and a download process. Framed as in `datago_gpu.feeder.wire`.

Payloads lie in shared memory, and stay there until the feeder has taken them.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from msgspec import Struct

from datago_gpu.config import HttpConfig
from datago_gpu.feeder.wire import Notice
from datago_gpu.sources.http.failure import HttpFailure, Try
from datago_gpu.sources.reference import Span

__all__ = ["Failure", "Order", "Orders", "Results", "Setup", "as_exception", "as_failure"]


class Setup(Struct, frozen=True):
    """The first message to the process."""

    http: HttpConfig
    log_level: int = logging.WARNING
    """The process sends log messages of this level and above."""


class Order(NamedTuple):
    """A payload that is wanted."""

    number: int
    url: str
    max_bytes: int
    span: Span | None = None
    """Which bytes of the file; None: all of them."""
    headers: dict[str, str] | None = None
    """For the origin of the address alone."""


class Orders(Struct, frozen=True, array_like=True):
    """Sent to the process."""

    wanted: list[Order]
    taken: list[int]
    """Numbers of payloads whose memory may be written again."""
    granted: list[int]
    """Numbers of payloads whose requested memory is granted."""


class Failure(Struct, frozen=True, array_like=True):
    """An HttpFailure as a message."""

    reason: str
    detail: str
    status: int
    text: str
    url: str
    tries: int
    proxy: str
    row: list[Try]


class Results(Struct, frozen=True, array_like=True):
    """Sent to the feeder, in any order."""

    arrived: list[tuple[int, int, int]]
    """Number, offset in the memory, bytes."""
    failed: list[tuple[int, Failure]]
    asking: list[tuple[int, int]]
    """Number of a payload, and the bytes of memory that it needs before its download continues."""
    notices: list[Notice] = []


def as_failure(error: HttpFailure) -> Failure:
    """Returns the message for a failure."""
    return Failure(
        error.reason, error.detail, error.status, error.text, error.url, error.tries, error.proxy, list(error.row)
    )


def as_exception(failure: Failure) -> HttpFailure:
    """Returns the failure of a message, without whether the server is down: no process can decide that alone."""
    error = HttpFailure(failure.reason, failure.detail, status=failure.status, text=failure.text)
    error.url, error.tries, error.proxy, error.row = failure.url, failure.tries, failure.proxy, failure.row
    return error
