"""Whether a server is down, or single payloads are to blame: put together from what several processes see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import chain

from datago_gpu.sources.http.failure import HttpFailure, Try, means_down

__all__ = ["Doubts"]


class Doubts:
    """Failures for which their server may be to blame. They wait until that can be told.

    Any answer of the server says that it is not, so many failed tries since its last answer that it is, as in
    HttpClient. `settle` is for when nothing more can come.
    """

    def __init__(self) -> None:
        self._answered_at: dict[str, float] = {}
        self._rows: dict[str, dict[int, Collection[Try]]] = {}
        """Server -> process -> the tries that have failed there in a row, by its latest word."""
        self._waiting: dict[str, list[tuple[asyncio.Future[bytes], HttpFailure]]] = {}

    def __bool__(self) -> bool:
        """Whether any wait."""
        return bool(self._waiting)

    def answered(self, server: str, now: float) -> None:
        """A request was. now: in seconds of the loop's clock, which is that of all processes."""
        self._answered_at[server] = now
        if self._waiting:
            self._end(server, down=False)

    def failed(
        self, server: str, now: float, process: int, future: asyncio.Future[bytes], failure: HttpFailure
    ) -> None:
        """One was given up by a process. The future gets the failure, now or later."""
        if not failure.of_server:
            _fail(future, failure)
            self.answered(server, now)
            return
        self._waiting.setdefault(server, []).append((future, failure))
        rows = self._rows.setdefault(server, {})
        rows[process] = failure.row
        since = self._answered_at.get(server, 0.0)
        if means_down([each for each in chain.from_iterable(rows.values()) if each[0] > since]):
            self._end(server, down=True)

    def settle(self) -> None:
        """No server is down for all that is known."""
        for server in list(self._waiting):
            self._end(server, down=False)

    def _end(self, server: str, *, down: bool) -> None:
        for future, failure in self._waiting.pop(server, []):
            failure.down = down
            _fail(future, failure)


def _fail(future: asyncio.Future[bytes], failure: HttpFailure) -> None:
    if not future.done():  # it is when it was cancelled
        future.set_exception(failure)
