"""Runs the feeder's main loop: epoch after epoch, from references to sent batches, up to the limit."""

from __future__ import annotations

import gc
import logging
import sys
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from itertools import count

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import DatagoError
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.grouper import Grouper
from datago_gpu.feeder.leftovers import Leftovers, remaining_refs, start_of
from datago_gpu.feeder.pack import Packer
from datago_gpu.feeder.refusals import RefusalsBySource
from datago_gpu.feeder.stages import Fetching, Stages
from datago_gpu.feeder.window import Outcome, source_of
from datago_gpu.feeder.wire import Carried, Counts, Mark, Resume
from datago_gpu.sources.done_ranges import DoneRanges
from datago_gpu.sources.reference import ListingDigest, PartlyDone, Position, Refs, SampleRef, Skipped, Source
from datago_gpu.sources.tally import hold_until_known

__all__ = ["Production"]

log = logging.getLogger("datago_gpu")


class Production:
    """Runs one stream from its start to its end, its limit or its failure."""

    def __init__(self, config: LoaderConfig, resume: Resume, source: Source, fetcher: Fetching, packer: Packer) -> None:
        self._config, self._resume = config, resume
        self._source, self._packer = source, packer
        limits, self._most_samples = Limits.of(config), config.most_samples
        self._grouper = Grouper(
            config.samples_of,
            limits.batch,
            limits.held,
            most_words=limits.words,
            whole_pixels=limits.pixels,
            mixed=config.image_config.mixed_buckets,
        )
        self._stages = Stages(config, source, fetcher, packer, self._grouper.__len__)
        self._outstanding: dict[int, str] = {}
        """Index -> cursor of this epoch's samples that are listed and neither sent nor skipped, in listing order."""
        self._leftovers = Leftovers(resume.carried)
        self._newest = resume.position
        self._begun: int | None = None
        """The last epoch of which a batch was sent."""
        self._listings: deque[tuple[int, ListingDigest | None]] = deque()
        """Sample index -> the listing's digest at that sample, for the samples behind the last one that is done."""
        self._listed = resume.listed
        """The listing's digest at the last sample that is done."""
        self._refusals: RefusalsBySource[Admitted] = RefusalsBySource(config.max_refused_in_a_row)

    def counts(self) -> Counts:
        """Returns the counts so far."""
        return self._stages.counts()

    async def run(self) -> None:
        """Sends all batches. If the source fails, raises SourceError after all fetched samples have been sent."""
        first = self._resume.position.epoch
        epochs = count(first) if self._config.epochs is None else range(first, self._config.epochs)
        fruitless = limited = False
        for epoch in epochs:
            fruitless = not await self._may_repeat(epoch)
            limited = not fruitless and (not self._still_wanted() or await self._run_epoch(epoch))
            if fruitless or limited:
                break
            gc.collect()  # the workers of an epoch leave reference cycles of tasks and tracebacks
        dropped = 0 if limited else len(self._grouper)
        if dropped:
            log.warning(
                "%d samples are left out at the end, because their batches are not full and drop_last is true", dropped
            )
        await self._packer.end(self._stages.counts(), fruitless=fruitless, dropped=dropped)

    async def _may_repeat(self, epoch: int) -> bool:
        """Returns whether to begin this epoch: a source without a usable sample would otherwise repeat for ever.

        The first epoch must have brought a sample; later, one of the last two epochs must have, so that the end of an
        epoch need not wait for the decoder. A resumed stream counts as having brought one in the epoch in which it
        starts. If samples of the last two epochs still wait to fill a batch, the check takes longer: one in two epochs
        must complete the batches that are begun.
        """
        first = self._resume.position.epoch
        waits = self._outstanding or self._leftovers.holds(epoch - 2)
        patience = 2 * self._grouper.open_places if waits else 0
        needed = max(first, epoch - 2 - patience)
        if epoch - first <= patience or (needed == first and self._resume.delivered):
            return True
        return await self._packer.has_decoded_since(needed)

    async def _run_epoch(self, epoch: int) -> bool:
        """Runs one epoch. Returns True when the limit is reached."""
        resume = self._resume
        if epoch == resume.position.epoch:
            for carried in resume.carried:
                if await self._run_through(self._carried_refs(carried), carried.start.epoch, epoch):
                    return True
        else:
            self._begin(epoch)
        if await self._run_through(self._undelivered_refs(epoch), epoch, epoch):
            return True
        if not self._config.drop_last:
            await self._flush(epoch)
        return False

    def _begin(self, epoch: int) -> None:
        """Marks the samples that wait for their batches as belonging to an earlier epoch."""
        listed = self._listings[-1][1] if self._listings else self._listed
        self._leftovers.keep(self._newest.epoch, self._outstanding, listed)
        self._outstanding.clear()
        self._listings.clear()
        self._listed = None
        self._newest = Position(epoch)

    async def _run_through(self, refs: Refs, of_epoch: int, epoch: int) -> bool:
        """Adds samples of one epoch to batches of the same or another epoch. Returns True when the limit is reached."""
        launched = self._note_launch if of_epoch == epoch else _of_epoch(of_epoch)
        window = self._stages.window(refs, ordered=self._config.ordered, launched=launched)
        async with window, aclosing(window.results()) as results:
            window.want(self._still_wanted())
            try:
                async for outcomes in results:
                    if await self._take(outcomes, of_epoch, epoch):
                        return True
                    window.want(self._still_wanted())
                await self._skip(self._refusals.end(), of_epoch)
            except DatagoError:
                await self._flush(epoch)
                raise
        return False

    def _carried_refs(self, carried: Carried) -> Refs:
        """Yields the samples of an earlier epoch that waited when the state was saved."""
        refs = self._source.refs(start_of(carried))
        return self._compare(carried.listed, remaining_refs(carried, refs, self._source.tally))

    def _undelivered_refs(self, epoch: int) -> Refs:
        """Yields the source's samples without those that were delivered before the start."""
        resume = self._resume
        if epoch != resume.position.epoch:
            return self._source.refs(Position(epoch))
        refs = self._source.refs(PartlyDone.behind(resume.position, resume.done, resume.listed))
        return self._compare(resume.listed, _exclude(DoneRanges(resume.done), refs) if resume.done else refs)

    def _compare(self, listed: ListingDigest | None, refs: Refs) -> Refs:
        """Yields the same samples, after checking that the listing is the one of the state."""
        tally = self._source.tally
        tally.expect(listed, accepts=self._resume.accepts_change)
        return hold_until_known(refs, tally) if tally.pending else refs

    async def _take(self, outcomes: list[Outcome], of_epoch: int, epoch: int) -> bool:
        """Sends the batches that these outcomes complete. Returns True when the limit is reached."""
        for each in outcomes:
            for outcome in self._refusals.take(each, source_of(each)):
                if isinstance(outcome, Skipped):
                    await self._skip([outcome], of_epoch)
                else:
                    for batch in self._grouper.add(outcome):
                        await self._send(batch, epoch)
            if not self._still_wanted() and await self._limit_reached(epoch):
                return True
        return False

    async def _skip(self, skips: list[Skipped], epoch: int) -> None:
        for skipped in skips:
            self._settle(epoch, skipped.index)
            await self._packer.skip(msgspec.structs.replace(skipped, epoch=epoch), self._stages.counts)

    async def _limit_reached(self, epoch: int) -> bool:
        """Sends the held samples and checks whether all could be decoded; if not, more samples are needed.

        Waits for the decoder both times, so that batches never depend on timing.
        """
        await self._packer.wait_until_settled()
        if not self._config.drop_last and not self._still_wanted():
            await self._flush(epoch)
            await self._packer.wait_until_settled()
        return not self._still_wanted()

    def _still_wanted(self) -> int:
        """Returns how many more samples can be used."""
        if self._config.limit is None:
            return sys.maxsize
        missing = max(0, self._config.limit - self._resume.delivered - self._packer.samples)
        if self._config.drop_last:
            return missing if missing >= self._most_samples else 0  # then any batch that gets full can be sent
        return max(0, missing - len(self._grouper))

    async def _flush(self, epoch: int) -> None:
        for batch in self._grouper.flush():
            await self._send(batch, epoch)

    async def _send(self, batch: list[Admitted], epoch: int) -> None:
        carried = [] if self._begun == epoch else self._leftovers.list_carried()
        self._begun = epoch
        for sample in batch:
            self._settle(sample.ref.epoch, sample.ref.index)
        await self._packer.send(batch, epoch, Mark(self._resume_at(epoch), self._listed, carried), self._stages.counts)

    def _note_launch(self, ref: SampleRef | Skipped) -> None:
        if ref.index >= 0:
            self._listings.append((ref.index, self._source.tally.listed))
        if isinstance(ref, SampleRef):
            ref.epoch = self._newest.epoch
            self._outstanding[ref.index] = ref.cursor
            self._newest = Position(ref.epoch, ref.index, ref.cursor)

    def _settle(self, epoch: int, index: int) -> None:
        """Records that a sample was sent or skipped."""
        if epoch != self._newest.epoch:
            self._leftovers.discard(epoch, index)
            return
        self._outstanding.pop(index, None)
        while self._listings and self._listings[0][0] <= index:
            self._listed = self._listings.popleft()[1]

    def _resume_at(self, epoch: int) -> Position:
        """Returns the position of the first sample that is not done; if all are, of the last, which is safe."""
        for index, cursor in self._outstanding.items():
            return Position(epoch, index, cursor)
        return self._newest


def _of_epoch(epoch: int) -> Callable[[SampleRef | Skipped], None]:
    """Returns a function that sets the epoch of a listed sample."""

    def note(ref: SampleRef | Skipped) -> None:
        if isinstance(ref, SampleRef):
            ref.epoch = epoch

    return note


async def _exclude(done: DoneRanges, listed: Refs) -> Refs:
    """Yields the samples that are not done. Closes the listing."""
    async with aclosing(listed) as refs:
        async for ref in refs:
            if not done.cover(ref.index, ref.index):
                yield ref
