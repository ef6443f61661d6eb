"""Runs many fetches at once, within a window that limits how far they run ahead of the bucketing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

from msgspec import Struct, field

from datago_gpu.eventloop import as_exception, is_ending, watched
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.fifo import Fifo
from datago_gpu.feeder.prefetch_budget import FREE_BYTES, Budget, Claim
from datago_gpu.sources.reference import Refs, SampleRef, Skipped
from datago_gpu.units import MiB
from datago_gpu.wait import Wait

__all__ = ["Outcome", "Waits", "Window", "Work", "sizes_of", "source_of"]

_FIRST_GUESS_BYTES = 8 * MiB
"""The assumed size of a sample until the first one has arrived."""
_SIZES_REMEMBERED = 32
_JOBS_AT_LEAST = 8
"""The least number of jobs for the samples that fit, so that the next job starts before the last one ends."""

Outcome = Admitted | Skipped

Work = Callable[[list[SampleRef], Claim], Awaitable[list[Outcome]]]
"""Loads some references and returns their outcomes. Asks the claim before it allocates memory."""

_Done = tuple[list[Outcome], list[int], Claim | None]
"""The outcomes of some references, the bytes of the admitted samples, and the claim that holds these bytes."""


class Waits(Struct):
    """Measures what the windows of a run wait for: the source, and results."""

    refs: Wait = field(default_factory=lambda: Wait("list"))
    results: Wait = field(default_factory=lambda: Wait("wait for payloads"))


class Window:
    """Runs `work` on the references of a stream, in `workers` calls at once, and yields the results.

    Results come in the order of the references or, if `ordered` is false, as they finish. Three limits apply to the
    references that are under way or waiting to be yielded: at most `size`, at most `wanted`, and about as many as fit
    into `most_bytes`, estimated from the average size of earlier samples. If samples are larger than usual, `work`
    waits for memory with the claim that it is given. An error of the stream is raised after all earlier results. The
    window closes the stream when it ends.

    A fixed set of workers instead of a task per call saves 15 us per sample.
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
        self.under_way = 0
        """Number of samples that are being loaded, or wait to be yielded."""
        self._room = asyncio.Event()
        self._wake_at = size - max(1, size // 8)
        self._loop = asyncio.get_running_loop()
        self._jobs: Fifo[tuple[list[SampleRef], Claim, asyncio.Future[_Done]]] = Fifo(self._loop)
        self._results: Fifo[asyncio.Future[_Done] | None] = Fifo(self._loop)
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
        self.waits.refs.end()
        self.waits.results.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._results:
            result = self._results.take()
            if result is not None and result.done():
                result.exception()  # nobody takes the result; this keeps asyncio from logging the error

    def want(self, count: int) -> None:
        """Limits the references under way to the number that can still be used, which may be 0."""
        count = max(0, count)
        if count < self._size or self._wanted < self._size:
            self._wanted = min(self._size, count)
            self._room.set()

    async def results(self) -> AsyncGenerator[list[Outcome], None]:
        """Yields the outcomes of the references, a few at a time."""
        wait = self.waits.results
        wait.begin()
        while (result := self._results.take() if self._results else await self._results.get()) is not None:
            outcomes, sizes, claim = result.result() if result.done() else await result
            wait.end()
            yield outcomes
            wait.begin()
            self.under_way -= len(outcomes)
            if claim is not None:
                self._budget.hand_out(claim)
            self._note_sizes(sizes)
            # Free an eighth of the window at a time: waking the launcher for each result costs 2 us.
            if self.under_way <= self._wake_at or self._wanted < self._size:
                self._room.set()
        await self._launcher  # raises the error that ended the stream, if any

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
                result.set_exception(as_exception(error))  # raised when the result is taken
            claim.settle(sum(sizes))
            self._unfinished -= 1
            if not self._ordered:
                self._results.put(result)
                self._end_when_done()
            del refs, result  # otherwise these payloads stay in memory while the worker waits

    async def _launch(self) -> None:
        problem: Exception | None = None
        for part in (self._launch_all, self._start_collected):
            try:
                await part()
            except BaseException as error:
                if is_ending(error):  # then nobody takes further results
                    raise
                problem = problem or as_exception(error)
        self._all_launched = True
        self._end_when_done()
        if problem:
            raise problem

    def _end_when_done(self) -> None:
        """Puts the end marker after the last result. In order, that result is already queued; unordered, it must
        have finished."""
        if self._all_launched and (self._ordered or not self._unfinished):
            self._results.put(None)

    async def _launch_all(self) -> None:
        wait = self.waits.refs
        wait.begin()
        async with aclosing(self._refs) as refs:
            async for ref in refs:
                wait.end()
                self._launched(ref)
                if isinstance(ref, Skipped):
                    await self._start_collected()
                    await self._pass_on(ref)
                else:
                    self._collected.append(ref)
                least = min(self._chunk, self._wanted, max(1, self._fitting // _JOBS_AT_LEAST))
                if len(self._collected) >= least or (isinstance(ref, SampleRef) and not ref.is_file):
                    await self._start_collected()
                wait.begin()
        wait.end()

    async def _start_collected(self) -> None:
        """Starts all collected references in one job if there is room, else as many as are wanted at a time."""
        refs = self._collected
        while refs:
            room = min(self._wanted, self._fitting) - self.under_way
            if room >= len(refs) or (room > 0 and not self.under_way):
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
        """Passes a skip of the source on. A source may skip any number of samples in a row."""
        while self.under_way >= self._size:
            self._room.clear()
            await self._room.wait()
        result = self._result(1)
        result.set_result(([skipped], [], None))
        self._results.put(result)

    def _result(self, count: int) -> asyncio.Future[_Done]:
        self.under_way += count
        return self._loop.create_future()


def source_of(outcome: Outcome) -> str:
    """Returns the name of the sample's source in a mix; "" without a mix."""
    return outcome.mix if isinstance(outcome, Skipped) else outcome.ref.info.mix


def sizes_of(outcomes: list[Outcome]) -> list[int]:
    """Returns the bytes of each admitted sample, including its attributes and tags."""
    return [each.arena_bytes + each.ref.info.words_bytes for each in outcomes if isinstance(each, Admitted)]


def _known_bytes(refs: list[SampleRef]) -> tuple[int, int]:
    """Returns the bytes that references already hold, and that number plus what is granted at first to payloads of
    unknown size."""
    held = granted = 0
    for ref in refs:
        held += ref.info.words_bytes
        if ref.payload is None:
            granted += FREE_BYTES
        else:
            held += len(ref.payload)
        for part in ref.parts:
            held += len(part.payload or b"")
    return held, held + granted
