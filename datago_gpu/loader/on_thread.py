"""Runs a coroutine from code that is not asynchronous."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["call_on_thread"]

T = TypeVar("T")


def call_on_thread(work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    """Runs the coroutine on a thread of its own: this thread may have a running event loop."""
    from concurrent.futures import ThreadPoolExecutor  # most runs plan nothing in this process

    from datago_gpu import eventloop

    with ThreadPoolExecutor(1, "datago-plan") as thread:
        return thread.submit(eventloop.run, work(*arguments)).result()
