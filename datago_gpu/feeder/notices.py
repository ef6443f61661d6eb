"""Passes log messages of a feeder's process to the trainer's logger, over the same socket as batches.

The standard error of such a process is read only after it has ended, to explain a crash.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from datago_gpu.feeder.wire import Notice

__all__ = ["pass_on_logs"]

AT_ONCE = 100
"""Messages that may be sent without a pause. Further messages are counted, and the next one reports their number."""
REFILL_S = 10.0
"""Seconds after which one more message may be sent."""
LONGEST = 4000
"""The most characters of one message."""


@contextmanager
def pass_on_logs(level: int, tell: Callable[[Notice], None]) -> Iterator[None]:
    """Calls `tell`, on the running loop, for each message that the package logs in the block at `level` or above."""
    logger = logging.getLogger("datago_gpu")
    handler, before = _Handler(asyncio.get_running_loop(), tell), logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Handler(logging.Handler):
    """Passes log records on. Any thread may call it, one at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[Notice], None]) -> None:
        super().__init__()
        self._loop, self._thread, self._tell = loop, threading.get_ident(), tell
        self._allowed, self._counted_at = float(AT_ONCE), time.monotonic()
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        self._allowed = min(AT_ONCE, self._allowed + (now - self._counted_at) / REFILL_S)
        self._counted_at = now
        if self._allowed < 1:
            self._left_out += 1
            return
        self._allowed -= 1
        try:
            text = self.format(record)[:LONGEST]
        except Exception:  # a log call with a wrong argument must not end the run
            self.handleError(record)
            return
        if self._left_out:
            text += f" ({self._left_out} other messages before it were left out)"
            self._left_out = 0
        notice = Notice(record.levelno, text)
        if threading.get_ident() == self._thread:  # at once, so that the order of messages is kept
            self._tell(notice)
            return
        with suppress(RuntimeError):  # the loop is closed: nobody reads the message
            self._loop.call_soon_threadsafe(self._tell, notice)
