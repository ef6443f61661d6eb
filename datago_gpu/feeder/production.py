"""The feeder's main line: epoch after epoch, from references to batches sent, up to the limit."""

from __future__ import annotations

import gc
import sys
import time
from bisect import bisect_right
from collections import deque
from contextlib import aclosing
from itertools import count

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import DatagoError
from datago_gpu.feeder.bucket import Admitted, Grouper
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.pack import Packer
from datago_gpu.feeder.refusals import Refusals
from datago_gpu.feeder.window import Outcome, Waits, Window
from datago_gpu.feeder.wire import Counts, Resume, StageCount
from datago_gpu.limits import Limits
from datago_gpu.sources.base import ListingDigest, Position, Refs, SampleRef, Skipped, Source
from datago_gpu.sources.tally import held_until_known

__all__ = ["Production"]


class Production:
    """Drives one stream from its start to its end, its limit or its failure."""

    def __init__(self, config: LoaderConfig, resume: Resume, source: Source, fetcher: Fetcher, packer: Packer) -> None:
        self._config, self._resume = config, resume
        self._source, self._fetcher, self._packer = source, fetcher, packer
        self._limits = Limits.of(config)
        self._grouper = Grouper(
            config.batch_size,
            self._limits.batch,
            self._limits.held,
            most_words=self._limits.words,
            batch_pixels=self._limits.pixels,
            mixed=config.image_config.mixed_buckets,
        )
        self._outstanding: dict[int, str] = {}
        """Index -> cursor of the samples that are listed and neither sent nor skipped, in the order of listing."""
        self._newest = Position()
        self._listings: deque[tuple[int, ListingDigest | None]] = deque()
        """What was listed when a sample was, by the sample's index, of those behind the last one that is done."""
        self._listed = resume.listed
        """What was listed up to the last sample that is done."""
        self._refusals: Refusals[Admitted] = Refusals(config.max_refused_in_a_row)
        self._waits = Waits()

    async def run(self) -> None:
        """Send everything. Raises SourceError where the source fails, after all that was fetched has been sent."""
        first = self._resume.position.epoch
        epochs = count(first) if self._config.epochs is None else range(first, self._config.epochs)
        fruitless = False
        for epoch in epochs:
            fruitless = not await self._may_repeat(epoch)
            if fruitless or not self._still_wanted() or await self._run_epoch(epoch):
                break
            gc.collect()  # the workers of an epoch end in cycles of tasks and tracebacks
        await self._packer.end(self._counts(), fruitless=fruitless)

    async def _may_repeat(self, epoch: int) -> bool:
        """Whether to begin this epoch: a source of which nothing can be used would repeat for ever.

        The first epoch must have brought a sample, and later on one of the last two: so the end of an epoch need not
        wait for the decoder. A stream that is resumed has brought one in the epoch in which it starts.
        """
        first = self._resume.position.epoch
        needed = max(first, epoch - 2)
        if epoch == first or (needed == first and self._resume.delivered):
            return True
        return await self._packer.has_decoded_since(needed)

    async def _run_epoch(self, epoch: int) -> bool:
        """True when the limit has been reached."""
        self._outstanding.clear()
        self._listings.clear()
        self._listed = self._resume.listed if epoch == self._resume.position.epoch else None
        self._newest = Position(epoch)
        window = Window(
            self._undelivered(epoch),
            self._fetcher,
            size=self._limits.samples_ahead,
            most_bytes=self._limits.ahead,
            chunk=self._fetcher.chunk,
            workers=self._config.http_config.concurrent_downloads,
            ordered=self._config.ordered,
            launched=self._note_launch,
            waits=self._waits,
        )
        async with window, aclosing(window.results()) as results:
            window.want(self._still_wanted())
            try:
                async for outcomes in results:
                    if await self._take(outcomes, epoch):
                        return True
                    window.want(self._still_wanted())
                await self._skip(self._refusals.end(), epoch)
            except DatagoError:
                await self._flush(epoch)
                raise
        if self._config.drop_last:
            self._grouper.drop()
        await self._flush(epoch)
        return False

    def _undelivered(self, epoch: int) -> Refs:
        """The source's samples, less those that were delivered before the start."""
        if epoch != self._resume.position.epoch:
            return self._source.refs(Position(epoch))
        resume, tally = self._resume, self._source.tally
        tally.expect(resume.listed, accepts=resume.accepts_change)
        refs = self._source.refs(resume.position)
        refs = _without(sorted(resume.done), refs) if resume.done else refs
        return held_until_known(refs, tally) if tally.pending else refs

    async def _take(self, outcomes: list[Outcome], epoch: int) -> bool:
        """True when the limit has been reached."""
        for each in outcomes:
            for outcome in self._refusals.passing(each):
                if isinstance(outcome, Skipped):
                    await self._skip([outcome], epoch)
                else:
                    for batch in self._grouper.add(outcome):
                        await self._send(batch, epoch)
            if not self._still_wanted() and await self._limit_reached(epoch):
                return True
        return False

    async def _skip(self, skips: list[Skipped], epoch: int) -> None:
        for skipped in skips:
            self._outstanding.pop(skipped.index, None)
            self._note_done(skipped.index)
            await self._packer.skip(msgspec.structs.replace(skipped, epoch=epoch), self._counts)

    async def _limit_reached(self, epoch: int) -> bool:
        """Send what is held, and see whether all of it could be decoded: else more is needed.

        Both times it waits for the decoder's word, so that what is sent when does not depend on when that comes.
        """
        await self._packer.settled()
        if not self._config.drop_last and not self._still_wanted():
            await self._flush(epoch)
            await self._packer.settled()
        return not self._still_wanted()

    def _still_wanted(self) -> int:
        """How many further samples can be used."""
        if self._config.limit is None:
            return sys.maxsize
        missing = max(0, self._config.limit - self._resume.delivered - self._packer.samples)
        if self._config.drop_last:
            return missing if missing >= self._config.batch_size else 0
        return max(0, missing - len(self._grouper))

    async def _flush(self, epoch: int) -> None:
        for batch in self._grouper.flush():
            await self._send(batch, epoch)

    async def _send(self, batch: list[Admitted], epoch: int) -> None:
        for sample in batch:
            del self._outstanding[sample.ref.index]
            self._note_done(sample.ref.index)
        await self._packer.send(batch, epoch, self._resume_at(epoch), self._listed, self._counts)

    def _note_launch(self, ref: SampleRef | Skipped) -> None:
        if ref.index >= 0:
            self._listings.append((ref.index, self._source.tally.listed))
        if isinstance(ref, SampleRef):
            self._outstanding[ref.index] = ref.cursor
            self._newest = Position(self._newest.epoch, ref.index, ref.cursor)

    def _note_done(self, index: int) -> None:
        while self._listings and self._listings[0][0] <= index:
            self._listed = self._listings.popleft()[1]

    def _resume_at(self, epoch: int) -> Position:
        """The first sample that is not done; where all are, the last one, which does no harm."""
        for index, cursor in self._outstanding.items():
            return Position(epoch, index, cursor)
        return self._newest

    def _counts(self) -> Counts:
        """The source is asked for samples only when there is room; the stages behind it wait for each other."""
        packer, fetcher = self._packer, self._fetcher
        stages = {
            "fetch": StageCount(fetcher.items, self._waits.refs_s, packer.waited_s),
            "pack": StageCount(packer.items, self._waits.results_s, packer.waited_s),
        }
        return Counts(stages, time.process_time(), self._source.passed_over)


async def _without(done: list[tuple[int, int]], listed: Refs) -> Refs:
    """Yields the samples that are in none of the ranges [first, last]. Closes the listing."""
    async with aclosing(listed) as refs:
        async for ref in refs:
            after = bisect_right(done, (ref.index, sys.maxsize))
            if not after or ref.index > done[after - 1][1]:
                yield ref
