"""From references to payloads, many at once, within a window that bounds how far ahead of the bucketing they run."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from datago_gpu.config import LoaderConfig, MiB
from datago_gpu.feeder.admit import Admission
from datago_gpu.feeder.bucket import Admitted
from datago_gpu.sources.base import SampleRef, Skipped
from datago_gpu.sources.http import HttpClient, HttpFailure

__all__ = ["Fetcher", "Outcome", "Window"]

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
        self.items = self.bytes = 0

    async def __call__(self, refs: list[SampleRef]) -> list[Outcome]:
        """Load these samples. What goes wrong with one is a Skipped in its place."""
        if refs[0].path:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._threads, self._read_all, refs)
        else:
            outcomes = [await self._download(ref) for ref in refs]
        self.items += len(outcomes)
        self.bytes += sum(len(each.payload) for each in outcomes if isinstance(each, Admitted))
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


class Window:
    """Runs `work` on the references of a stream, several calls at once, and hands out the results.

    In the order of the references; or, with `ordered` false, as they come. At most `size` references, and at most
    `wanted`, are under way or waiting to be handed out. An error of the stream is raised after all that came before it.
    """

    def __init__(
        self,
        refs: AsyncIterator[SampleRef | Skipped],
        work: Callable[[list[SampleRef]], Awaitable[list[Outcome]]],
        *,
        size: int,
        chunk: int,
        ordered: bool,
        launched: Callable[[SampleRef], None],
    ) -> None:
        self._refs, self._work, self._chunk, self._ordered = refs, work, chunk, ordered
        self._size, self._launched = size, launched
        self._wanted = size
        self._under_way = 0
        self._room = asyncio.Event()
        self._results: asyncio.Queue[asyncio.Future[list[Outcome]] | None] = asyncio.Queue()
        self._tasks: set[asyncio.Future[list[Outcome]]] = set()
        self.waited_for_refs_s = 0.0

    async def __aenter__(self) -> Self:
        self._launcher = asyncio.create_task(self._launch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks: list[asyncio.Future[Any]] = [self._launcher, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def want(self, count: int) -> None:
        """Bound what is under way by what can still be used."""
        self._wanted = min(self._size, count)
        self._room.set()

    async def results(self) -> AsyncIterator[list[Outcome]]:
        """What became of the references, a few at a time."""
        while (task := await self._results.get()) is not None:
            outcomes = await task
            yield outcomes
            self._under_way -= len(outcomes)
            self._room.set()
        await self._launcher  # raises what ended the stream

    async def _launch(self) -> None:
        try:
            refs: list[SampleRef] = []
            clock = time.perf_counter()
            async for ref in self._refs:
                self.waited_for_refs_s += time.perf_counter() - clock
                if isinstance(ref, Skipped):
                    await self._start_with_room(refs)
                    refs = []
                    self._start_done(ref)
                else:
                    self._launched(ref)
                    refs.append(ref)
                if len(refs) >= min(self._chunk, self._wanted):
                    await self._start_with_room(refs)
                    refs = []
                clock = time.perf_counter()
            await self._start_with_room(refs)
        finally:
            if not self._ordered:
                await asyncio.gather(*self._tasks, return_exceptions=True)
            self._results.put_nowait(None)

    async def _start_with_room(self, refs: list[SampleRef]) -> None:
        """Start all of them at once if it can be, else as many as are wanted at a time."""
        while refs:
            room = self._wanted - self._under_way
            if room >= len(refs) or (room > 0 and not self._under_way):
                self._start(asyncio.ensure_future(self._work(refs[:room])), len(refs[:room]))
                refs = refs[room:]
            else:
                self._room.clear()
                await self._room.wait()

    def _start_done(self, skipped: Skipped) -> None:
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        done.set_result([skipped])
        self._start(done, 1)

    def _start(self, task: asyncio.Future[list[Outcome]], count: int) -> None:
        self._under_way += count
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._ordered:
            self._results.put_nowait(task)
        else:
            task.add_done_callback(self._results.put_nowait)
