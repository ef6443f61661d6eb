"""Turns references into payloads: reads local files on threads and downloads the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import Rejected, SourceError
from datago_gpu.eventloop import call_in_thread, started
from datago_gpu.feeder.admit import Admission, without_image
from datago_gpu.feeder.admit_parts import AdmittedPart, Frame, PartAdmission
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.payload_client import Remote
from datago_gpu.feeder.prefetch_budget import Claim
from datago_gpu.feeder.remote_payloads import RemotePayloads
from datago_gpu.feeder.window import Outcome, sizes_of
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.sources.http.failure import GONE, HttpFailure
from datago_gpu.sources.local import NUL_IN_PATH, Patience, read_file
from datago_gpu.sources.reference import Part, SampleRef, Skipped
from datago_gpu.units import MiB

if TYPE_CHECKING:
    from datago_gpu.sources.cache.cache_folder import CacheFolder, Miss

__all__ = ["Fetcher"]

T = TypeVar("T")

FILES_A_JOB = 8
"""Local files read in one call on a thread. Such a call costs about 60 us, a file from the page cache 20 us."""

_USUAL_CAPTION_BYTES = 64 * 1024
"""Asked for together with a large image, so that the image is not read again for want of room for its caption."""

_MISSING = "missing"

_OF_THE_SETTINGS = frozenset(("too-small", "other-shape", "too-many-pixels"))
"""Reasons for which images that are whole are skipped. The cache keeps them, too."""

_LARGE = 8 * MiB
"""From this size in bytes on, a payload's header is read on a thread: finding its end in 64 MiB takes 50 ms."""


class Fetcher:
    """Loads payloads and has them admitted. `chunk` is how many references to local files one call should get.

    remote: downloads references with a `url`; None if there are none. memory: limits the memory for decoding, together
    with other Fetchers; None: of this one alone. cache: keeps what is downloaded; None: nothing is kept.
    """

    def __init__(
        self,
        config: LoaderConfig,
        remote: Remote | None,
        memory: Allowance | None = None,
        cache: CacheFolder | None = None,
    ) -> None:
        self._remote = RemotePayloads(config, remote, cache)
        self._limits = Limits.of(config)
        memory = memory or Allowance(self._limits.decoding)
        self._admission, self._parts = Admission(config, memory), PartAdmission(config, memory)
        self._patience = Patience(config.http_config)
        self._threads = ThreadPoolExecutor(min(32, config.http_config.concurrent_downloads), "datago-files")
        self.chunk = FILES_A_JOB
        self.items = 0
        self.cache_counts = self._remote.counts

    async def __call__(self, refs: list[SampleRef], claim: Claim) -> list[Outcome]:
        """Loads these samples. A sample that fails is replaced by a Skipped."""
        outcomes: list[Outcome] = []
        for are_files, some in groupby(refs, attrgetter("is_file")):
            if are_files:
                outcomes += await self._read_all(list(some), claim)
            else:
                outcomes += [await self._load(ref, claim) for ref in some]
        self.items += len(outcomes)
        return outcomes

    def close(self) -> None:
        """Releases the threads without waiting for the files that they read."""
        self._patience.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read_all(self, refs: list[SampleRef], claim: Claim) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(refs):
            some, more = await self._on_thread(self._read_some, refs[len(outcomes) :], claim.left)
            outcomes += some
            claim.use(sum(sizes_of(some)))
            await claim.need(more)
        return outcomes

    def _read_some(self, refs: list[SampleRef], room: int) -> tuple[list[Outcome], int]:
        """Reads as many samples as fit into `room`. Returns the outcomes, and the bytes that the next one needs."""
        outcomes: list[Outcome] = []
        for ref in refs:
            outcome = self._read(ref, room)
            if isinstance(outcome, int):
                return outcomes, outcome
            outcomes.append(outcome)
            room = max(0, room - sum(sizes_of([outcome])))
        return outcomes, 0

    def _read(self, ref: SampleRef, room: int) -> Outcome | int:
        """Returns the outcome of a file; or, if that takes more memory than `room`, the bytes that it takes."""
        if small := self._admission.by_listing(ref):
            return small
        try:
            payload, size = self._read_payload(ref, room)
        except Rejected as problem:
            return Skipped(ref.index, ref.id, ref.where, problem.reason, problem.detail)
        beside = _USUAL_CAPTION_BYTES if ref.caption else 0
        if size > room:
            return size + beside
        outcome = self._admission.quick(ref, payload)
        if outcome is None:
            needed = size + self._admission.pixel_bytes(payload)
            if needed > room:
                return needed + beside
            outcome = self._admission.thorough(ref, payload)
        if ref.caption and isinstance(outcome, Admitted):
            from datago_gpu.feeder.caption import read_caption  # other streams start sooner without this import

            used = outcome.arena_bytes
            if more := read_caption(ref, self._patience, max(0, room - used)):
                return used + more
            return _chosen(ref, outcome)
        return outcome

    def _read_payload(self, wanted: SampleRef | Part, room: int) -> tuple[bytes, int]:
        """Reads a local file. Returns its content, or nothing if that takes more memory than `room`; and its size.

        Raises Rejected.
        """
        try:
            payload, size = self._patience(lambda: read_file(wanted.path, min(room, self._limits.payload), wanted.span))
        except FileNotFoundError:
            raise Rejected(_MISSING) from None
        except OSError as error:
            raise Rejected("unreadable", str(error.strerror)) from None
        except ValueError:
            raise Rejected(*NUL_IN_PATH) from None
        if size > self._limits.payload:
            raise Rejected("too-large", f"{size} bytes, above http_config.max_payload_mb")
        if wanted.span and size <= room and len(payload) < size:
            raise Rejected("cut-short", f"the file ends within the {size} bytes from {wanted.span.begin} on")
        return payload, size

    async def _load(self, ref: SampleRef, claim: Claim) -> Outcome:
        if small := self._admission.by_listing(ref):
            return small
        if ref.caption:
            return await self._load_with_caption(ref, claim)
        if ref.has_image:
            outcome = await self._load_image(ref, claim)
        else:
            outcome = without_image(ref)
        if not ref.parts or isinstance(outcome, Skipped):
            return outcome
        return await self._with_parts(ref, outcome, claim)

    async def _load_image(self, ref: SampleRef, claim: Claim) -> Outcome:
        try:
            payload, miss = await self._get(ref, ref, claim)
        except HttpFailure as failure:
            return self._skip_failed(ref, failure)
        except Rejected as problem:
            return Skipped(ref.index, ref.id, ref.where, problem.reason, problem.detail)
        outcome = await self._admit(ref, payload, claim)
        if isinstance(outcome, Admitted) or outcome.reason in _OF_THE_SETTINGS:
            await self._remote.keep(miss, payload)
        return outcome

    async def _load_with_caption(self, ref: SampleRef, claim: Claim) -> Outcome:
        """Downloads image and caption at the same time. The caption's memory, 1 MiB at most, is not asked for."""
        from datago_gpu.feeder.caption import download_caption  # other streams start sooner without this import

        assert self._remote.remote is not None
        caption = started(download_caption(ref, self._remote.remote, self._remote.cache))
        try:
            outcome = await self._load_image(ref, claim)
            if isinstance(outcome, Admitted):
                await caption
                return _chosen(ref, outcome)
            return outcome
        finally:
            caption.cancel()
            await asyncio.gather(caption, return_exceptions=True)

    async def _admit(self, ref: SampleRef, payload: bytes, claim: Claim) -> Outcome:
        outcome: Outcome | None
        if len(payload) > _LARGE:
            outcome = await self._on_thread(self._admission.quick, ref, payload)
        else:
            outcome = self._admission.quick(ref, payload)
        if outcome is None:
            pixel_bytes = partial(self._admission.pixel_bytes, payload)
            outcome = await self._decode(claim, pixel_bytes, partial(self._admission.thorough, ref, payload))
        return outcome

    async def _with_parts(self, ref: SampleRef, sample: Admitted, claim: Claim) -> Outcome:
        """Loads the sample's parts one after the other, so that at most one payload per worker is in flight."""
        frame = Frame(sample.original_size, sample.crop, sample.bucket)
        for part in ref.parts:
            try:
                sample.parts.append(await self._part(ref, part, frame, claim))
            except HttpFailure as failure:
                if not (part.optional and failure.status in GONE):
                    return self._skip_failed(ref, failure, f"{part.kind} {part.name!r}: ")
            except Rejected as problem:
                if part.optional and problem.reason == _MISSING:
                    continue
                words = (f"{part.kind} {part.name!r}", problem.reason, problem.detail)
                return Skipped(ref.index, ref.id, ref.where, problem.reason, ": ".join(filter(None, words)))
            if sample.arena_bytes > self._limits.sample:
                return self._too_large(ref, sample.arena_bytes, " of all its payloads together, above arena_mb")
        return sample

    async def _part(self, ref: SampleRef, part: Part, frame: Frame, claim: Claim) -> AdmittedPart:
        payload, miss = await self._get(ref, part, claim)
        admitted = self._parts.quick(part, payload, frame)
        if admitted is None:
            pixel_bytes = partial(self._parts.pixel_bytes, payload, frame)
            admitted = await self._decode(claim, pixel_bytes, partial(self._parts.thorough, part, payload, frame))
        await self._remote.keep(miss, payload)
        return admitted

    async def _decode(self, claim: Claim, pixel_bytes: Callable[[], int], thorough: Callable[[], T]) -> T:
        """Waits until there is memory, calls `thorough` on a thread and returns its result."""

        def attempt(room: int) -> tuple[int, T | None]:
            needed = pixel_bytes()
            return needed, thorough() if needed <= room else None

        needed, outcome = await self._on_thread(attempt, claim.left)
        if outcome is None:
            await claim.need(needed)
            outcome = await self._on_thread(thorough)
        return outcome

    async def _get(self, ref: SampleRef, wanted: SampleRef | Part, claim: Claim) -> tuple[bytes, Miss | None]:
        """Returns the payload of a sample's image, or of one of its parts: as it is, from its file, from the cache, or
        downloaded. If it was downloaded because the cache does not have it, the Miss is for `_keep`.

        Raises HttpFailure if it cannot be downloaded, Rejected if its file cannot be read.
        """
        if wanted.payload is not None:
            return wanted.payload, None
        if wanted.path:
            return await self._get_file(wanted, claim), None
        return await self._remote.get(ref, wanted, claim)

    async def _get_file(self, wanted: SampleRef | Part, claim: Claim) -> bytes:
        while True:
            room = claim.left
            payload, size = await self._on_thread(self._read_payload, wanted, room)
            if size <= room:
                claim.use(size)
                return payload
            await claim.need(size)

    async def _on_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await call_in_thread(self._threads, work, *arguments)

    @staticmethod
    def _skip_failed(ref: SampleRef, failure: HttpFailure, what: str = "") -> Skipped:
        if failure.down:
            raise SourceError(f"{failure}; {failure.verdict}") from failure
        return Skipped(ref.index, ref.id, ref.where, failure.reason, what + failure.detail)

    @staticmethod
    def _too_large(ref: SampleRef, size: int, why: str) -> Skipped:
        return Skipped(ref.index, ref.id, ref.where, "too-large", f"{size} bytes{why}")


def _chosen(ref: SampleRef, sample: Admitted) -> Outcome:
    """Returns the sample, or what stands for it if `where` leaves it out because of its caption."""
    if ref.passes and not ref.passes(ref):
        return Skipped.filtered(ref.index)
    return sample
