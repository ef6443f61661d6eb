"""Notes the asynchronous generators that nobody closes: the garbage collector closes them, or the end of their loop."""

from __future__ import annotations

import asyncio
import sysconfig
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import uvloop

__all__ = ["watch"]

AnyGenerator = AsyncGenerator[Any, Any]
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))


def watch() -> list[str]:
    """Returns a list that grows by a name for each generator of ours that nobody closes, in any loop here."""
    left: list[str] = []
    for kind in (asyncio.BaseEventLoop, uvloop.Loop):
        _watch(kind, left)
    return left


def _watch(kind: Any, left: list[str]) -> None:
    """Wraps what an event loop is told of generators: their start, their loss, and its own end."""
    start: Callable[[Any, AnyGenerator], None] = kind._asyncgen_firstiter_hook
    finalize: Callable[[Any, AnyGenerator], None] = kind._asyncgen_finalizer_hook
    shutdown: Callable[[Any], Awaitable[None]] = kind.shutdown_asyncgens
    loops: WeakKeyDictionary[AnyGenerator, int] = WeakKeyDictionary()

    def note(generator: AnyGenerator, how: str) -> None:
        code = generator.ag_code
        if not code.co_filename.startswith(_INSTALLED):
            left.append(f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno}), {how}")

    def started(loop: Any, generator: AnyGenerator) -> None:
        loops[generator] = id(loop)
        start(loop, generator)

    def lost(loop: Any, generator: AnyGenerator) -> None:
        note(generator, "left to the garbage collector")
        finalize(loop, generator)

    async def ended(loop: Any) -> None:
        for generator, of in list(loops.items()):
            if of == id(loop) and generator.ag_frame is not None:
                note(generator, "open when its loop ended")
        await shutdown(loop)

    kind._asyncgen_firstiter_hook, kind._asyncgen_finalizer_hook = started, lost
    kind.shutdown_asyncgens = ended
