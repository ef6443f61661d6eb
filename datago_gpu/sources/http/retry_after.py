"""Honours servers that say when clients may retry (Retry-After)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["RetryTimes", "retry_after_s"]

_QUIET_S = 60.0
"""A server's request to wait is logged if its last wait ended more than this many seconds ago."""

logger = logging.getLogger(__name__)


class RetryTimes:
    """Remembers until when each server asked clients to wait: all requests to that server wait.

    most_s: the longest total time that one request waits for that.
    """

    def __init__(self, most_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._most_s, self._loop = most_s, loop
        self._at: dict[str, float] = {}

    def note(self, server: str, seconds: float, reason: str) -> None:
        """Records that the server asked for a wait of this many seconds. reason: of its answer, for the log."""
        seconds, now = min(seconds, self._most_s), self._loop.time()
        before = self._at.get(server, -_QUIET_S)
        if before < now - _QUIET_S:
            logger.warning("%s asks for a pause of %.0f s (%s)", server, seconds, reason)
        self._at[server] = max(before, now + seconds)

    def after_s(self, server: str, waited_s: float) -> float:
        """Returns the seconds that a request must still wait; 0 if it need not, or may not wait any longer."""
        if not self._at:
            return 0.0
        return max(0.0, min(self._at.get(server, 0.0) - self._loop.time(), self._most_s - waited_s))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Returns the header's seconds; a date is compared with the server's own clock."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    try:
        now = parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        now = datetime.now(UTC)
    try:
        return max(0.0, (until - now).total_seconds())
    except TypeError:  # one of the dates has no time zone
        return None
