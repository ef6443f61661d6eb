"""Records when the stages of this process work and wait, while a window of time is open.

During the window, methods are replaced by ones that also note the time. Outside of a window nothing is replaced, so
that tracing costs nothing. Times are those of `time.perf_counter`, a clock that the processes of a machine share.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from msgspec import Struct

from datago_gpu.wait import Wait

__all__ = ["Event", "Recorder", "track_of_task", "track_of_thread"]

MOST_EVENTS = 500_000
SHORTEST_S = 10e-6
"""Shorter waits are left out: a listing of files waits for each name, but never long."""


class Event(Struct, frozen=True, array_like=True):
    """Says that something took some time."""

    stage: str
    track: str
    """Events of a track follow each other, or one contains the other."""
    began: float
    ended: float
    details: dict[str, int | str] = {}


Note = Callable[[Any, tuple[Any, ...], Any, float, float], None]
"""Is called after a method with its object, its arguments, its result, and when it began and ended."""


class Recorder:
    """Records events of this process until `close`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._originals: list[tuple[type, str, Any]] = []

    def add(self, event: Event) -> None:
        """Records an event. Any thread may call it."""
        if len(self.events) < MOST_EVENTS:
            self.events.append(event)

    def wrap(self, kind: type, name: str, note: Note) -> None:
        """Has a method of a class noted."""
        original = getattr(kind, name)
        self._originals.append((kind, name, original))
        wrapped = _noted_coroutine(original, note) if inspect.iscoroutinefunction(original) else _noted(original, note)
        setattr(kind, name, wrapped)

    def wrap_stage(self, kind: type, name: str, stage: str, track: Callable[[], str]) -> None:
        """Has each call of a method recorded as the work of a stage."""

        def note(_owner: Any, _arguments: tuple[Any, ...], _result: Any, began: float, ended: float) -> None:
            self.add(Event(stage, track(), began, ended))

        self.wrap(kind, name, note)

    def wrap_waits(self, track: Callable[[Wait], str | None]) -> None:
        """Has waits recorded. track: returns the track of a wait, None to leave it out."""
        original = Wait.end

        def end(wait: Wait) -> None:
            began, ended = wait.began, time.perf_counter()
            original(wait)
            if began and ended - began > SHORTEST_S and (name := track(wait)):
                self.add(Event(wait.name, name, began, ended))

        self._originals.append((Wait, "end", original))
        setattr(Wait, "end", end)  # noqa: B010 - mypy refuses an assignment

    def close(self) -> None:
        """Restores all methods."""
        while self._originals:
            kind, name, original = self._originals.pop()
            setattr(kind, name, original)


def track_of_thread() -> str:
    """Returns the name of the current thread."""
    return threading.current_thread().name


def track_of_task() -> str:
    """Returns the name of the current task, of the current thread where there is none."""
    with suppress(RuntimeError):
        if task := asyncio.current_task():
            return task.get_name()
    return track_of_thread()


def _noted(original: Callable[..., Any], note: Note) -> Callable[..., Any]:
    @wraps(original)
    def call(owner: Any, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = original(owner, *arguments, **named)
        note(owner, arguments, result, began, time.perf_counter())
        return result

    return call


def _noted_coroutine(original: Callable[..., Any], note: Note) -> Callable[..., Any]:
    @wraps(original)
    async def call(owner: Any, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = await original(owner, *arguments, **named)
        note(owner, arguments, result, began, time.perf_counter())
        return result

    return call
