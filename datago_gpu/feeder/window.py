"""Many fetches at once, within a window that bounds how far ahead of the bucketing they run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

from msgspec import Struct

from datago_gpu.eventloop import as_exception, is_ending, watched
from datago_gpu.feeder.grouper import Admitted
from datago_gpu.feeder.line import Line
from datago_gpu.feeder.prefetch_budget import FREE_BYTES, Budget, Claim
from datago_gpu.sources.base import Refs, SampleRef, Skipped, words_bytes
from datago_gpu.units import MiB

__all__ = ["Outcome", "Waits", "Window", "Work", "sizes_of"]

_FIRST_GUESS_BYTES = 8 * MiB
"""A sample's size, as long as none has come."""
_SIZES_REMEMBERED = 32
_JOBS_AT_LEAST = 8
"""Into which what fits is split, so that the next one starts before the last is done."""

Outcome = Admitted | Skipped

Work = Callable[[list[SampleRef], Claim], Awaitable[list[Outcome]]]
"""What becomes of some references; the claim is asked before memory is taken."""

_Done = tuple[list[Outcome], list[int], Claim | None]
"""What became of some references, the bytes of those that were admitted, and what holds these bytes."""


class Waits(Struct):
    """Seconds that a Window has spent waiting: for the source, and for results."""

    refs_s: float = 0.0
    results_s: float = 0.0


class Window:
    """Runs `work` on the references of a stream, `workers` calls at once, and hands out the results.

    In the order of the references; or, with `ordered` false, as they come. At most `size` references, at most `wanted`,
    and about as many as fit into `most_bytes` by the usual size of those before them, are under way or waiting to be
    handed out. Should they be larger than usual, `work` waits for memory: it is given the claim to ask with. An error
    of the stream is raised after all that came before it. The window closes the stream when it ends.

    A fixed set of workers, rather than a task for each call, saves 15 us a sample.
    """

    def __init__(
        self,
        refs: Refs,
        work: Work,
        *,
        size: int,
        most_bytes: int,
        chunk: int,
        workers: int,
        ordered: bool,
        launched: Callable[[SampleRef | Skipped], None],
        waits: Waits,
    ) -> None:
        self._refs, self._work, self._chunk, self._workers = refs, work, chunk, workers
        self._ordered, self._size, self._launched = ordered, size, launched
        self._wanted = size
        self._most_bytes, self._usual_bytes = most_bytes, float(_FIRST_GUESS_BYTES)
        self._budget = Budget(most_bytes, ordered=ordered)
        self._fitting = self._how_many_fit()
        self._collected: list[SampleRef] = []
        self._under_way = 0
        self._room = asyncio.Event()
        self._wake_at = size - max(1, size // 8)
        self._loop = asyncio.get_running_loop()
        self._jobs: Line[tuple[list[SampleRef], Claim, asyncio.Future[_Done]]] = Line(self._loop)
        self._results: Line[asyncio.Future[_Done] | None] = Line(self._loop)
        self._unfinished = 0
        self._all_launched = False
        self._tasks: list[asyncio.Task[None]] = []
        self.waits = waits

    async def __aenter__(self) -> Self:
        self._launcher = asyncio.create_task(self._launch())
        self._tasks = [self._launcher, *(watched(self._serve()) for _ in range(self._workers))]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        self._budget.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._results:
            result = self._results.take()
            if result is not None and result.done():
                result.exception()  # nobody wants it any more, and asyncio need not say so

    def want(self, count: int) -> None:
        """Bound what is under way by what can still be used, which may be nothing."""
        count = max(0, count)
        if count < self._size or self._wanted < self._size:
            self._wanted = min(self._size, count)
            self._room.set()

    async def results(self) -> AsyncGenerator[list[Outcome], None]:
        """Yields what became of the references, a few at a time."""
        clock = time.perf_counter()
        while (result := self._results.take() if self._results else await self._results.get()) is not None:
            outcomes, sizes, claim = result.result() if result.done() else await result
            self.waits.results_s += time.perf_counter() - clock
            yield outcomes
            clock = time.perf_counter()
            self._under_way -= len(outcomes)
            if claim is not None:
                self._budget.hand_out(claim)
            self._note_sizes(sizes)
            # An eighth of the window at a time: waking the launcher for each result costs 2 us.
            if self._under_way <= self._wake_at or self._wanted < self._size:
                self._room.set()
        await self._launcher  # raises what ended the stream

    def _note_sizes(self, sizes: list[int]) -> None:
        for size in sizes:
            self._usual_bytes += (size - self._usual_bytes) / _SIZES_REMEMBERED
        self._fitting = self._how_many_fit()

    def _how_many_fit(self) -> int:
        return max(1, int(self._most_bytes / max(self._usual_bytes, 1.0)))

    async def _serve(self) -> None:
        while True:
            refs, claim, result = self._jobs.take() if self._jobs else await self._jobs.get()
            sizes: list[int] = []
            try:
                outcomes = await self._work(refs, claim)
                sizes = sizes_of(outcomes)
                result.set_result((outcomes, sizes, claim))
                del outcomes
            except BaseException as error:
                if is_ending(error):
                    raise
                result.set_exception(as_exception(error))  # it is raised where the result is taken
            claim.settle(sum(sizes))
            self._unfinished -= 1
            if not self._ordered:
                self._results.put(result)
                self._end_when_done()
            del refs, result  # while it waits for the next, it would keep these payloads

    async def _launch(self) -> None:
        problem: Exception | None = None
        for part in (self._launch_all, self._start_collected):
            try:
                await part()
            except BaseException as error:
                if is_ending(error):  # then nobody takes results any more
                    raise
                problem = problem or as_exception(error)
        self._all_launched = True
        self._end_when_done()
        if problem:
            raise problem

    def _end_when_done(self) -> None:
        """The end comes behind the last result: in order it is in line already, else it has to have come."""
        if self._all_launched and (self._ordered or not self._unfinished):
            self._results.put(None)

    async def _launch_all(self) -> None:
        clock = time.perf_counter()
        async with aclosing(self._refs) as refs:
            async for ref in refs:
                self.waits.refs_s += time.perf_counter() - clock
                self._launched(ref)
                if isinstance(ref, Skipped):
                    await self._start_collected()
                    await self._pass_on(ref)
                else:
                    self._collected.append(ref)
                if len(self._collected) >= min(self._chunk, self._wanted, max(1, self._fitting // _JOBS_AT_LEAST)):
                    await self._start_collected()
                clock = time.perf_counter()

    async def _start_collected(self) -> None:
        """Start all of them in one job if there is room, else as many as are wanted at a time."""
        refs = self._collected
        while refs:
            room = min(self._wanted, self._fitting) - self._under_way
            if room >= len(refs) or (room > 0 and not self._under_way):
                job, result = refs[:room], self._result(len(refs[:room]))
                del refs[:room]
                claim = self._budget.claim()
                held, needed = _known_bytes(job)
                await claim.need(needed)
                claim.use(held)
                if self._ordered:
                    self._results.put(result)
                self._unfinished += 1
                self._jobs.put((job, claim, result))
            else:
                self._room.clear()
                await self._room.wait()

    async def _pass_on(self, skipped: Skipped) -> None:
        """A source may skip any number in a row."""
        while self._under_way >= self._size:
            self._room.clear()
            await self._room.wait()
        result = self._result(1)
        result.set_result(([skipped], [], None))
        self._results.put(result)

    def _result(self, count: int) -> asyncio.Future[_Done]:
        self._under_way += count
        return self._loop.create_future()


def sizes_of(outcomes: list[Outcome]) -> list[int]:
    """The bytes of each that was admitted, with what is told of it in words."""
    return [each.arena_bytes + words_bytes(each.ref) for each in outcomes if isinstance(each, Admitted)]


def _known_bytes(refs: list[SampleRef]) -> tuple[int, int]:
    """What references hold already; and with it, what is granted for the beginning of what they do not."""
    held = granted = 0
    for ref in refs:
        held += words_bytes(ref)
        if ref.payload is None:
            granted += FREE_BYTES
        else:
            held += len(ref.payload)
        for part in ref.parts:
            held += len(part.payload or b"")
    return held, held + granted
