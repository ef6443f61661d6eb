"""From references to payloads, many at once, within a window that bounds how far ahead of the bucketing they run."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from msgspec import Struct

from datago_gpu.config import LoaderConfig, MiB
from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.bucket import Admitted
from datago_gpu.sources.base import SampleRef, Skipped
from datago_gpu.sources.http import HttpClient, HttpFailure

__all__ = ["Fetcher", "Outcome", "Waits", "Window"]

Outcome = Admitted | Skipped

FILES_A_JOB = 8
"""Local files that one hop to a thread reads. A hop costs about 60 us, a file from the page cache 20."""

EXPIRED = frozenset((401, 403))
"""What object stores answer to an address that has expired."""


class Fetcher:
    """Loads payloads and has them admitted. `chunk` is how many references one call should bring."""

    def __init__(self, config: LoaderConfig, http: HttpClient) -> None:
        self._http, self._max_bytes = http, config.http_config.max_payload_mb * MiB
        self._admission = Admission(config)
        self._threads = ThreadPoolExecutor(min(32, config.http_config.concurrent_downloads), "datago-files")
        self.chunk = FILES_A_JOB if config.source_type == "file" else 1
        self.items = 0

    async def __call__(self, refs: list[SampleRef]) -> list[Outcome]:
        """Load these samples. What goes wrong with one is a Skipped in its place."""
        if refs[0].path:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._threads, self._read_all, refs)
        else:
            outcomes = [await self._download(ref) for ref in refs]
        self.items += len(outcomes)
        return outcomes

    def close(self) -> None:
        """Let go of the threads without waiting for what they read."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read_all(self, refs: list[SampleRef]) -> list[Outcome]:
        return [self._read(ref) for ref in refs]

    def _read(self, ref: SampleRef) -> Outcome:
        try:
            with open(ref.path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > self._max_bytes:
                    return self._too_large(ref, size)
                payload = file.read(size + 1)
        except FileNotFoundError:
            return Skipped(ref.index, ref.id, ref.where, "missing")
        except OSError as error:
            return Skipped(ref.index, ref.id, ref.where, "unreadable", str(error.strerror))
        return self._admission.quick(ref, payload) or self._admission.thorough(ref, payload)

    async def _download(self, ref: SampleRef) -> Outcome:
        try:
            payload = await self._get(ref)
        except HttpFailure as failure:
            return Skipped(ref.index, ref.id, ref.where, failure.reason, failure.detail)
        outcome = self._admission.quick(ref, payload)
        if outcome is not None:
            return outcome
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._admission.thorough, ref, payload)

    async def _get(self, ref: SampleRef) -> bytes:
        try:
            return (await self._http.get(ref.url, max_bytes=self._max_bytes)).body
        except HttpFailure as failure:
            if failure.status not in EXPIRED or ref.renew is None:
                raise
        return (await self._http.get(await ref.renew(), max_bytes=self._max_bytes)).body

    def _too_large(self, ref: SampleRef, size: int) -> Skipped:
        return Skipped(ref.index, ref.id, ref.where, "too-large", f"{size} bytes, above http_config.max_payload_mb")


class Waits(Struct):
    """Seconds that a Window has spent waiting: for the source, and for results."""

    refs_s: float = 0.0
    results_s: float = 0.0


class Window:
    """Runs `work` on the references of a stream, `workers` calls at once, and hands out the results.

    In the order of the references; or, with `ordered` false, as they come. At most `size` references, and at most
    `wanted`, are under way or waiting to be handed out. An error of the stream is raised after all that came before it.

    A fixed set of workers, rather than a task for each call, saves 15 us a sample.
    """

    def __init__(
        self,
        refs: AsyncIterator[SampleRef | Skipped],
        work: Callable[[list[SampleRef]], Awaitable[list[Outcome]]],
        *,
        size: int,
        chunk: int,
        workers: int,
        ordered: bool,
        launched: Callable[[SampleRef], None],
        waits: Waits,
    ) -> None:
        self._refs, self._work, self._chunk, self._workers = refs, work, chunk, workers
        self._ordered, self._size, self._launched = ordered, size, launched
        self._wanted = size
        self._collected: list[SampleRef] = []
        self._under_way = 0
        self._room = asyncio.Event()
        self._wake_at = size - max(1, size // 8)
        self._jobs: asyncio.Queue[tuple[list[SampleRef], asyncio.Future[list[Outcome]]]] = asyncio.Queue()
        self._results: asyncio.Queue[asyncio.Future[list[Outcome]] | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self.waits = waits

    async def __aenter__(self) -> Self:
        self._launcher = asyncio.create_task(self._launch())
        self._tasks = [self._launcher, *(asyncio.create_task(self._serve()) for _ in range(self._workers))]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def want(self, count: int) -> None:
        """Bound what is under way by what can still be used."""
        if count < self._size or self._wanted < self._size:
            self._wanted = min(self._size, count)
            self._room.set()

    async def results(self) -> AsyncIterator[list[Outcome]]:
        """What became of the references, a few at a time."""
        clock = time.perf_counter()
        while (result := await self._results.get()) is not None:
            outcomes = await result
            self.waits.results_s += time.perf_counter() - clock
            yield outcomes
            clock = time.perf_counter()
            self._under_way -= len(outcomes)
            # An eighth of the window at a time: waking the launcher for each result costs 2 us.
            if self._under_way <= self._wake_at or self._wanted < self._size:
                self._room.set()
        await self._launcher  # raises what ended the stream

    async def _serve(self) -> None:
        while True:
            refs, result = await self._jobs.get()
            try:
                result.set_result(await self._work(refs))
            except Exception as error:  # it is raised where the result is taken
                result.set_exception(error)
            if not self._ordered:
                self._results.put_nowait(result)
            self._jobs.task_done()

    async def _launch(self) -> None:
        problem: Exception | None = None
        try:
            await self._launch_all()
        except Exception as error:  # not when cancelled: then nobody takes results any more
            problem = error
        await self._start_collected()
        if not self._ordered:
            await self._jobs.join()
        self._results.put_nowait(None)
        if problem:
            raise problem

    async def _launch_all(self) -> None:
        clock = time.perf_counter()
        async for ref in self._refs:
            self.waits.refs_s += time.perf_counter() - clock
            if isinstance(ref, Skipped):
                await self._start_collected()
                await self._pass_on(ref)
            else:
                self._launched(ref)
                self._collected.append(ref)
            if len(self._collected) >= min(self._chunk, self._wanted):
                await self._start_collected()
            clock = time.perf_counter()

    async def _start_collected(self) -> None:
        """Start all of them in one job if there is room, else as many as are wanted at a time."""
        refs = self._collected
        while refs:
            room = self._wanted - self._under_way
            if room >= len(refs) or (room > 0 and not self._under_way):
                job = refs[:room], self._result(len(refs[:room]))
                if self._ordered:
                    self._results.put_nowait(job[1])
                self._jobs.put_nowait(job)
                del refs[:room]
            else:
                self._room.clear()
                await self._room.wait()

    async def _pass_on(self, skipped: Skipped) -> None:
        """A source may skip any number in a row."""
        while self._under_way >= self._size:
            self._room.clear()
            await self._room.wait()
        result = self._result(1)
        result.set_result([skipped])
        self._results.put_nowait(result)

    def _result(self, count: int) -> asyncio.Future[list[Outcome]]:
        self._under_way += count
        return asyncio.get_running_loop().create_future()
