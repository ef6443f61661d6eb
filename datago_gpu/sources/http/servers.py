"""Remembers for each server whether it answers: many failed tries in a row mean that the server is down."""

from __future__ import annotations

import asyncio
from collections import deque

from yarl import URL

from datago_gpu.sources.http.failure import DOWN_AFTER, HttpFailure, Try, means_down
from datago_gpu.sources.http.routes import Routes

__all__ = ["Servers"]

_MOST_HOSTS = 10_000
"""The most hosts remembered as having answered: a listing may name any number."""


class Servers:
    """Records the answers and the failed tries of each server. A proxy that cannot be reached counts as a server of its
    own, since requests to all hosts fail because of it.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes, self._loop = routes, asyncio.get_running_loop()
        self._answered: set[str] = set()
        self._failed_in_a_row: dict[str, deque[Try]] = {}

    def note_answer(self, url: URL, status: int) -> None:
        """Records an answer. A status below 500 ends the row of the server's failed tries."""
        if len(self._answered) < _MOST_HOSTS:
            self._answered.add(url.raw_authority)
        if self._failed_in_a_row:
            if status < 500:
                self._failed_in_a_row.pop(url.raw_authority, None)
            if proxy := self._routes.proxy(url):
                self._failed_in_a_row.pop(proxy.address, None)

    def has_answered(self, url: URL) -> bool:
        """Returns whether the server of an address has ever given an answer."""
        return url.raw_authority in self._answered

    def note_failure(self, url: URL, failure: HttpFailure) -> None:
        """Records a failed try for which the server may be to blame. Sets `row` and `down` of the failure."""
        if failure.of_server:
            server = failure.proxy or url.raw_authority
            row = self._failed_in_a_row.setdefault(server, deque(maxlen=DOWN_AFTER))
            row.append((self._loop.time(), hash(url)))
            failure.row, failure.down = tuple(row), means_down(row)
