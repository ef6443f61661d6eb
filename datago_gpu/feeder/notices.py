"""What a process of the feeder's logs reaches the trainer's logger: as messages on the way that batches take.

Nobody reads what such a process writes itself: that is kept for its last words only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from datago_gpu.feeder.wire import Notice

__all__ = ["passed_on"]

AT_ONCE = 100
"""Messages that may come one right after the other. What is beyond that is counted, and told with the next one."""
REFILL_S = 10.0
"""Seconds after which a further message may come."""
LONGEST = 4000
"""Letters of one message."""


@contextmanager
def passed_on(level: int, tell: Callable[[Notice], None]) -> Iterator[None]:
    """Within the block, have `tell` called, on the running loop, with what the package logs at `level` or above."""
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
    """Called from any thread, by one at a time."""

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
        except Exception:  # of a wrong argument of a log call: no reason to end the run
            self.handleError(record)
            return
        if self._left_out:
            text += f" ({self._left_out} other messages before it were left out)"
            self._left_out = 0
        notice = Notice(record.levelno, text)
        if threading.get_ident() == self._thread:  # at once, so that it stands in its place among other messages
            self._tell(notice)
            return
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._tell, notice)
