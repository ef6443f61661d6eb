"""From references to payloads: reads local files on threads, downloads the others."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from datago_gpu.config import LoaderConfig
from datago_gpu.decode.allowance import Allowance
from datago_gpu.errors import SourceError
from datago_gpu.feeder.admit import Admission, without_image
from datago_gpu.feeder.bucket import Admitted
from datago_gpu.feeder.parts import AdmittedPart, Frame, PartAdmission, Unfit
from datago_gpu.feeder.remote import Remote
from datago_gpu.feeder.window import Outcome
from datago_gpu.limits import Limits
from datago_gpu.sources.base import Part, SampleRef, Skipped
from datago_gpu.sources.failure import HttpFailure
from datago_gpu.sources.local import Patience, read_file

__all__ = ["Fetcher"]

FILES_A_JOB = 8
"""Local files that one hop to a thread reads. A hop costs about 60 us, a file from the page cache 20."""

EXPIRED = frozenset((401, 403))
"""What object stores answer to an address that has expired."""

GONE = frozenset((404, 410))


class Fetcher:
    """Loads payloads and has them admitted. `chunk` is how many references one call should bring.

    remote: for references with a `url`; a source of local files has none.
    """

    def __init__(self, config: LoaderConfig, remote: Remote | None) -> None:
        self._remote = remote
        self._limits = Limits.of(config)
        memory = Allowance(self._limits.decoding)
        self._admission, self._parts = Admission(config, memory), PartAdmission(config, memory)
        self._patience = Patience(config.http_config)
        self._threads = ThreadPoolExecutor(min(32, config.http_config.concurrent_downloads), "datago-files")
        self.chunk = FILES_A_JOB if self._remote is None else 1
        self.items = 0

    async def __call__(self, refs: list[SampleRef]) -> list[Outcome]:
        """Load these samples. What goes wrong with one is a Skipped in its place."""
        if refs[0].path and refs[0].payload is None:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._threads, self._read_all, refs)
        else:
            outcomes = []
            for ref in refs:
                outcomes.append(await self._download(ref))
        self.items += len(outcomes)
        return outcomes

    def close(self) -> None:
        """Let go of the threads without waiting for what they read."""
        self._patience.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read_all(self, refs: list[SampleRef]) -> list[Outcome]:
        return [self._read(ref) for ref in refs]

    def _read(self, ref: SampleRef) -> Outcome:
        try:
            payload, size = self._patience(lambda: read_file(ref.path, self._limits.payload))
        except FileNotFoundError:
            return Skipped(ref.index, ref.id, ref.where, "missing")
        except OSError as error:
            return Skipped(ref.index, ref.id, ref.where, "unreadable", str(error.strerror))
        if size > self._limits.payload:
            return self._too_large(ref, size, ", above http_config.max_payload_mb")
        return self._admission.quick(ref, payload) or self._admission.thorough(ref, payload)

    async def _download(self, ref: SampleRef) -> Outcome:
        outcome: Outcome | None
        if ref.has_image:
            try:
                payload = await self._get(ref, ref)
            except HttpFailure as failure:
                return self._lost(ref, failure)
            outcome = self._admission.quick(ref, payload)
            if outcome is None:
                loop = asyncio.get_running_loop()
                outcome = await loop.run_in_executor(self._threads, self._admission.thorough, ref, payload)
        else:
            outcome = without_image(ref)
        if not ref.parts or isinstance(outcome, Skipped):
            return outcome
        return await self._with_parts(ref, outcome)

    async def _with_parts(self, ref: SampleRef, sample: Admitted) -> Outcome:
        """One after the other, so that no more payloads are in flight than there are workers."""
        frame = Frame(sample.original_size, sample.crop, sample.bucket)
        for part in ref.parts:
            try:
                sample.parts.append(await self._part(ref, part, frame))
            except HttpFailure as failure:
                if not (part.optional and failure.status in GONE):
                    return self._lost(ref, failure, f"{part.kind} {part.name!r}: ")
            except Unfit as problem:
                return Skipped(ref.index, ref.id, ref.where, problem.reason, f"{part.kind} {part.name!r}: {problem}")
            if sample.arena_bytes > self._limits.sample:
                return self._too_large(ref, sample.arena_bytes, " of all its payloads together, above arena_mb")
        return sample

    async def _part(self, ref: SampleRef, part: Part, frame: Frame) -> AdmittedPart:
        payload = await self._get(ref, part)
        admitted = self._parts.quick(part, payload, frame)
        if admitted is not None:
            return admitted
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._parts.thorough, part, payload, frame)

    async def _get(self, ref: SampleRef, wanted: SampleRef | Part) -> bytes:
        """The payload of a sample's image, or of one of its parts."""
        if wanted.payload is not None:
            return wanted.payload
        assert self._remote is not None
        try:
            return await self._remote.get(wanted.url, self._limits.payload)
        except HttpFailure as failure:
            if failure.status not in EXPIRED or ref.renew is None:
                raise
        renewed = await ref.renew(wanted.name if isinstance(wanted, Part) else "")
        return await self._remote.get(renewed, self._limits.payload)

    @staticmethod
    def _lost(ref: SampleRef, failure: HttpFailure, what: str = "") -> Skipped:
        if failure.down:
            raise SourceError(f"{failure}; nor does its server answer any other request") from failure
        return Skipped(ref.index, ref.id, ref.where, failure.reason, what + failure.detail)

    @staticmethod
    def _too_large(ref: SampleRef, size: int, why: str) -> Skipped:
        return Skipped(ref.index, ref.id, ref.where, "too-large", f"{size} bytes{why}")
