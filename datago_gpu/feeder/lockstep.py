"""Runs the feeder's main loop in lockstep: the batches of a plan, each with the same number of samples on every rank.

A sample that is bad changes neither the number of batches nor another batch: its place is filled with a repeat of
another sample of its batch.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from contextlib import aclosing
from itertools import count

from msgspec import structs

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.config.lockstep_rules import JUDGED_FROM
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.fill import fill
from datago_gpu.feeder.pack import Packer
from datago_gpu.feeder.planned import Step
from datago_gpu.feeder.planned_walk import open_plan
from datago_gpu.feeder.refusals import RefusalsBySource
from datago_gpu.feeder.stages import Fetching, Stages
from datago_gpu.feeder.window import Outcome, source_of
from datago_gpu.feeder.wire import Counts, Mark, Resume
from datago_gpu.plan.taken import MoreTaken, continued, together_of
from datago_gpu.sources.reference import Position, Refs, SampleRef, Skipped, Source
from datago_gpu.sources.tally import hold_until_known
from datago_gpu.units import MiB

__all__ = ["LockstepProduction"]

log = logging.getLogger("datago_gpu")


class LockstepProduction:
    """Runs one stream from its start to its end, its limit or its failure."""

    def __init__(self, config: LoaderConfig, resume: Resume, source: Source, fetcher: Fetching, packer: Packer) -> None:
        self._config, self._resume, self._source = config, resume, source
        self._packer, self._arena = packer, Limits.of(config).arena
        self._stages = Stages(config, source, fetcher, packer, lambda: len(self._outcomes))
        self._planned = open_plan(config, source)
        self._together, self._stride, self._least = together_of(config), config.most_samples, config.least_samples
        self._steps: deque[Step] = deque()
        """The steps whose samples are listed and not all sent."""
        self._outcomes: list[Outcome] = []
        """The outcomes of the first of these steps."""
        self._bytes = 0
        self._sent = resume.delivered
        """The samples of this rank in the batches sent, over all epochs."""
        self._refusals: RefusalsBySource[Admitted] = RefusalsBySource(
            config.max_refused_in_a_row, holds=config.source_type != "mix"
        )
        self._share = 0
        """This rank's samples in the last epoch."""

    def counts(self) -> Counts:
        """Returns the counts so far."""
        return structs.replace(self._stages.counts(), epoch_samples=self._planned.epoch_samples)

    async def run(self) -> None:
        """Sends all batches. If the source fails, raises SourceError after all complete batches have been sent."""
        first, fruitless = self._resume.position.epoch, False
        for epoch in count(first) if self._config.epochs is None else range(first, self._config.epochs):
            fruitless = not await self._may_repeat(epoch)
            if fruitless or self._limit_reached():
                break
            await self._run_epoch(epoch)
            gc.collect()  # the workers of an epoch leave reference cycles of tasks and tracebacks
        dropped = 0 if self._limit_reached() else self._planned.dropped
        if dropped:
            log.warning(
                "%d samples are left out: the last batch of each bucket is not full, and drop_last is true", dropped
            )
        await self._packer.end(self.counts(), fruitless=fruitless, dropped=dropped)

    async def _may_repeat(self, epoch: int) -> bool:
        """Returns whether to begin this epoch. A stream without end must have brought a good sample in the last two,
        if this rank's share is large enough to judge by.
        """
        first = self._resume.position.epoch
        share, self._share = self._share, 0
        needed = max(first, epoch - 2)
        if self._config.epochs is not None or epoch == first or (needed == first and self._resume.taken):
            return True
        return share < JUDGED_FROM or await self._packer.has_decoded_since(needed)

    def _left(self) -> int | None:
        """Returns how many more samples the limit allows; None: there is no limit."""
        limit = self._config.limit
        return None if limit is None else max(0, limit - self._sent)

    def _limit_reached(self) -> bool:
        left = self._left()
        return self._planned.limited or (left is not None and left < self._least)

    async def _run_epoch(self, epoch: int) -> None:
        window = self._stages.window(self._refs(epoch), ordered=True, launched=lambda _: None)
        self._steps.clear()
        self._outcomes, self._bytes = [], 0
        async with window, aclosing(window.results()) as results:
            async for outcomes in results:
                for outcome in outcomes:
                    await self._judge(outcome, epoch)
        for skipped in self._refusals.end():
            await self._take(skipped, epoch)

    async def _refs(self, epoch: int) -> Refs:
        """Yields the samples of the steps that are left, after a check that the rows are those of the state."""
        resume, resumed = self._resume, epoch == self._resume.position.epoch
        taken = continued(resume.taken if resumed else [], self._together)
        tally = self._source.tally
        if resumed:
            tally.expect(resume.listed, accepts=resume.accepts_change)
            self._planned.resume(epoch, resume.listed)
        refs = self._planned.refs(epoch, taken, self._left(), self._steps.append)
        try:
            async with aclosing(hold_until_known(refs, tally) if tally.pending else refs) as samples:
                async for sample in samples:
                    if isinstance(sample, SampleRef):
                        sample.epoch = epoch
                    yield sample
        except MoreTaken:
            said = f"the rows make fewer batches in epoch {epoch} than the state says were taken ([G, steps]: {taken})"
            if not resume.accepts_change:
                raise ConfigError(f'{said}. Start without the state, or pass on_change="accept"') from None
            log.warning("%s; the run goes on with the next epoch, because on_change is 'accept'", said)

    async def _judge(self, outcome: Outcome, epoch: int) -> None:
        if isinstance(outcome, Skipped) and outcome.index < 0:  # it is in no plan
            await self._skip(outcome, epoch)
            return
        for each in self._refusals.take(outcome, source_of(outcome)):
            await self._take(each, epoch)

    async def _take(self, outcome: Outcome, epoch: int) -> None:
        """Adds the next sample to its step, and sends the step when it is complete."""
        self._outcomes.append(outcome)
        if isinstance(outcome, Admitted):
            self._bytes += outcome.bytes
            self._check_bytes()
        if len(self._outcomes) < len(self._steps[0].first_places):
            return
        step = self._steps.popleft()
        self._share += sum(step.real)
        filled = fill(step, self._outcomes)
        for skipped in filled.skipped:
            await self._skip(skipped, epoch)
        behind = Position(epoch, (step.number + 1) * self._stride)
        await self._packer.send(filled.samples, epoch, Mark(behind, step.listed), self._stages.counts, filled.fills)
        self._sent += len(step.places)
        self._outcomes, self._bytes = [], 0

    def _check_bytes(self) -> None:
        """Raises ConfigError if a batch cannot fit into the arena: in lockstep, a batch is never sent short."""
        if self._bytes <= self._arena:
            return
        held, size = len(self._outcomes), len(self._steps[0].places)
        needed = -(-2 * self._bytes * size // held // MiB)
        raise ConfigError(
            f"{held} samples of a batch of {size} take more than arena_mb ({self._config.arena_mb}), and lockstep "
            f"does not send short batches: raise arena_mb, to about {needed}, or lower "
            f"{'batch_pixels' if self._config.batch_pixels else 'batch_size'}"
        )

    async def _skip(self, skipped: Skipped, epoch: int) -> None:
        await self._packer.skip(structs.replace(skipped, epoch=epoch), self.counts)
