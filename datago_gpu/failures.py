"""Counts the samples that are not delivered, and says when there are too many."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable

from datago_gpu.errors import DecodeError, TooManyErrors
from datago_gpu.sources.base import Skipped

__all__ = ["Failures"]

SHARE_FROM = 100
"""Samples seen before a share of them says anything."""

KEPT = 10

log = logging.getLogger("datago_gpu")


class Failures:
    """The budget that `max_failures` sets: a count, a share, or None for no bound."""

    def __init__(self, allowed: float | None) -> None:
        self._allowed = allowed
        self._last: deque[DecodeError] = deque(maxlen=KEPT)
        self.by_reason: Counter[str] = Counter()

    def add(self, skipped: Iterable[Skipped]) -> None:
        """Count, and log: the first of each reason as a warning, the others at debug level."""
        for each in skipped:
            error = DecodeError(each.id, each.where, each.reason, each.detail)
            level = logging.DEBUG if self.by_reason[each.reason] else logging.WARNING
            log.log(level, "skipped %s", error)
            self.by_reason[each.reason] += 1
            self._last.append(error)

    def check(self, delivered: int, *, final: bool = False) -> None:
        """Raise TooManyErrors if the budget is spent; `final` when no more samples come."""
        bad = self.by_reason.total()
        seen = delivered + bad
        if isinstance(self._allowed, float):
            spent = bad > self._allowed * seen and (final or seen >= SHARE_FROM)
        else:
            spent = self._allowed is not None and bad > self._allowed
        if spent or (final and bad and not delivered):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.by_reason.most_common())
            allowed = "" if self._allowed is None else f"; max_failures is {self._allowed}"
            raise TooManyErrors(f"{bad} of {seen} samples were bad ({reasons}){allowed}; the last of them:", self._last)
