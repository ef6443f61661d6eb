"""Honours servers that say when they want to be asked again (Retry-After)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["ComeBack", "retry_after_s"]

_QUIET_S = 60.0
"""How long a server has to have asked for no wait, until a further one is worth a word in the log."""

logger = logging.getLogger(__name__)


class ComeBack:
    """Remembers when each server wants to be asked again: all requests to a server wait, where it asked one to.

    most_s: the longest that one request waits for that, in all.
    """

    def __init__(self, most_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._most_s, self._loop = most_s, loop
        self._at: dict[str, float] = {}

    def note(self, server: str, seconds: float, reason: str) -> None:
        """The server asked for a wait of so many seconds. reason: of its answer, for the log."""
        seconds, now = min(seconds, self._most_s), self._loop.time()
        before = self._at.get(server, -_QUIET_S)
        if before < now - _QUIET_S:
            logger.warning("%s asks to be left alone for %.0f s (%s)", server, seconds, reason)
        self._at[server] = max(before, now + seconds)

    def after_s(self, server: str, waited_s: float) -> float:
        """How long a request has to wait that has waited so long already; 0 where it need not, or may not any more."""
        if not self._at:
            return 0.0
        return max(0.0, min(self._at.get(server, 0.0) - self._loop.time(), self._most_s - waited_s))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from the header, which holds seconds or a date; a date counts from the server's own clock."""
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
    except TypeError:  # one of them names no time zone
        return None
