"""Runs coroutines on the quickest event loop that there is here, and lets no error of a task or a thread get lost."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

__all__ = [
    "Abrupt",
    "as_exception",
    "call_in_thread",
    "catch_lost_errors",
    "guarded",
    "is_ending",
    "run",
    "started",
    "watched",
]

T = TypeVar("T")


class Abrupt(Exception):
    """Stands for an error that asyncio cannot carry from where it arose to where it is awaited, which is its cause.

    Such are a library's panic, its attempt to end the process, and a cancellation that nobody asked for. asyncio ends
    the event loop for some of them, ends a task quietly for others, and refuses StopIteration.
    """


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end. uvloop's loop takes two thirds of the time of asyncio's own."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def as_exception(error: BaseException) -> Exception:
    """The error itself, or an Abrupt in its place."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    abrupt = Abrupt(f"{type(error).__name__}: {error}")
    abrupt.__cause__ = error
    return abrupt


def is_ending(error: BaseException) -> bool:
    """Whether the running task was told to end, and this is how it learns of that."""
    if isinstance(error, GeneratorExit):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def guarded(work: Awaitable[T]) -> T:
    """What `work` gives. Raises an Exception in place of what is none, unless the task is told to end."""
    try:
        return await work
    except BaseException as error:
        if is_ending(error) or as_exception(error) is error:
            raise
        raise as_exception(error) from error


def started(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task. It raises an Exception in place of what is none."""
    task = asyncio.create_task(guarded(work))
    task.add_done_callback(lambda _: work.close())  # a task that is cancelled at once has not begun to await it
    return task


async def call_in_thread(executor: Executor | None, work: Callable[..., T], *arguments: Any) -> T:
    """What `work` gives when a thread calls it. Raises an Exception in place of what is none."""
    return await asyncio.get_running_loop().run_in_executor(executor, _called, work, *arguments)


def _called(work: Callable[..., T], *arguments: Any) -> T:
    try:
        return work(*arguments)
    except BaseException as error:
        if as_exception(error) is error:
            raise
        raise as_exception(error) from error


def watched(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task that nobody awaits. The loop is told at once when it fails: see `catch_lost_errors`."""
    task = started(work)
    task.add_done_callback(_tell_of_failure)
    return task


def _tell_of_failure(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        context = {"message": "a task has failed", "exception": error, "task": task, "watched": True}
        task.get_loop().call_exception_handler(context)


def catch_lost_errors(end: Callable[[BaseException], None]) -> None:
    """Have `end` called with each error of a watched task, and of a callback of ours, on the running loop."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and ("watched" in context or ("handle" in context and _is_ours(error))):
            end(error)
        else:
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)


def _is_ours(error: BaseException) -> bool:
    """Whether it came out of a function of this package."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith("datago_gpu.") for frame, _ in frames)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
