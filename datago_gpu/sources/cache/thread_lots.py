"""Calls functions on threads, several in one go: handing a single one over and back takes 60 us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from datago_gpu.eventloop import as_exception

__all__ = ["ThreadLots"]

T = TypeVar("T")

_LOT = 8
"""Functions that one thread calls one after the other."""

_Waiting = tuple[Callable[[], Any], "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]


class ThreadLots:
    """Calls the functions of one turn of the event loop together. Must be made in a running loop."""

    def __init__(self, threads: int, name: str) -> None:
        self._loop, self._threads = asyncio.get_running_loop(), ThreadPoolExecutor(threads, name)
        self._waiting: list[_Waiting] = []
        self._closed = False

    def __call__(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Returns the result of `work`, or its error. Once begun, `work` is completed even if nobody waits for it."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append((work, future))
        return future

    def close(self) -> None:
        """Begins nothing more, and waits for nothing."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for begin in range(0, len(waiting), _LOT):
            if not self._closed:
                self._threads.submit(self._run, waiting[begin : begin + _LOT])

    def _run(self, lot: list[_Waiting]) -> None:
        outcomes = [_outcome(work, future) for work, future in lot]
        lot.clear()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_deliver, outcomes)


def _outcome(work: Callable[[], Any], future: asyncio.Future[Any]) -> _Outcome:
    try:
        return future, work(), None
    except BaseException as error:  # raised where the result is awaited
        return future, None, as_exception(error)


def _deliver(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():  # it is cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
