"""Runs coroutines on the fastest event loop available, and makes sure that no error of a task or thread is lost."""

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
    """Wraps an error that asyncio cannot pass on to the code that awaits the task. The error becomes the cause.

    Examples are a library's panic, a library's attempt to end the process, and a cancellation that nobody requested.
    asyncio ends the event loop for some of these errors, ends a task silently for others, and refuses StopIteration.
    """


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end and returns its result. uvloop takes two thirds of the time of asyncio's own loop."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def as_exception(error: BaseException) -> Exception:
    """Returns the error itself, or an Abrupt if asyncio cannot pass it on."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    abrupt = Abrupt(f"{type(error).__name__}: {error}")
    abrupt.__cause__ = error
    return abrupt


def is_ending(error: BaseException) -> bool:
    """Returns whether the error only tells the running task to end."""
    if isinstance(error, GeneratorExit):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def guarded(work: Awaitable[T]) -> T:
    """Awaits `work` and returns its result. Raises every error as an Exception, unless the task is told to end."""
    try:
        return await work
    except BaseException as error:
        if is_ending(error) or as_exception(error) is error:
            raise
        raise as_exception(error) from error


def started(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Starts a task that raises every error as an Exception."""
    task = asyncio.create_task(guarded(work))
    task.add_done_callback(lambda _: work.close())  # a task that is cancelled at once has not begun to await `work`
    return task


async def call_in_thread(executor: Executor | None, work: Callable[..., T], *arguments: Any) -> T:
    """Calls `work` on a thread and returns its result. Raises every error as an Exception."""
    return await asyncio.get_running_loop().run_in_executor(executor, _called, work, *arguments)


def _called(work: Callable[..., T], *arguments: Any) -> T:
    try:
        return work(*arguments)
    except BaseException as error:
        if as_exception(error) is error:
            raise
        raise as_exception(error) from error


def watched(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Starts a task that nobody awaits. If it fails, the loop's handler is called at once: see `catch_lost_errors`."""
    task = started(work)
    task.add_done_callback(_tell_of_failure)
    return task


def _tell_of_failure(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        context = {"message": "a task has failed", "exception": error, "task": task, "watched": True}
        task.get_loop().call_exception_handler(context)


def catch_lost_errors(end: Callable[[BaseException], None]) -> None:
    """Makes the running loop call `end` with each error of a watched task or of a callback of this package."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and ("watched" in context or ("handle" in context and _is_ours(error))):
            end(error)
        else:
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)


def _is_ours(error: BaseException) -> bool:
    """Returns whether the error passed through a function of this package."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith("datago_gpu.") for frame, _ in frames)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # uvloop does not support this platform
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
