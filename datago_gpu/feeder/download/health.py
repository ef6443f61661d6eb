"""Decides whether a server is down or single payloads are to blame, from the reports of several processes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import chain

from datago_gpu.sources.http.failure import HttpFailure, Try, means_down

__all__ = ["UndecidedFailures"]


class UndecidedFailures:
    """Holds failures that may be the server's fault, until that can be decided.

    A proxy counts as a server. Any answer of the server shows that it is up; enough failed tries since its last answer
    show that it is down, as in HttpClient. `settle` is called when no more reports can come.
    """

    def __init__(self) -> None:
        self._answered_at: dict[str, float] = {}
        self._rows: dict[str, dict[int, Collection[Try]]] = {}
        """Server -> process -> that process's latest consecutive failed tries, from its last report."""
        self._waiting: dict[str, list[tuple[asyncio.Future[bytes], HttpFailure]]] = {}

    def __bool__(self) -> bool:
        """Returns whether any failure waits."""
        return bool(self._waiting)

    def note_answer(self, server: str, now: float) -> None:
        """Records that the server answered. now: in seconds of the loop's clock, which all processes share."""
        self._answered_at[server] = now
        if self._waiting:
            self._end(server, down=False)

    def note_failure(
        self, server: str, now: float, process: int, future: asyncio.Future[bytes], failure: HttpFailure
    ) -> None:
        """Records that a process gave a request up. The future gets the failure, now or later."""
        if not failure.of_server:
            _fail(future, failure)
            self.note_answer(server, now)
            return
        self._waiting.setdefault(server, []).append((future, failure))
        rows = self._rows.setdefault(server, {})
        rows[process] = failure.row
        since = self._answered_at.get(server, 0.0)
        if means_down([each for each in chain.from_iterable(rows.values()) if each[0] > since]):
            self._end(server, down=True)

    def settle(self) -> None:
        """Passes on all held failures as failures of single payloads: no server is known to be down."""
        for server in list(self._waiting):
            self._end(server, down=False)

    def _end(self, server: str, *, down: bool) -> None:
        for future, failure in self._waiting.pop(server, []):
            failure.down = down
            _fail(future, failure)


def _fail(future: asyncio.Future[bytes], failure: HttpFailure) -> None:
    if not future.done():  # a cancelled future is done
        future.set_exception(failure)
