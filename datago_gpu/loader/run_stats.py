"""Collects the statistics of one run of a Loader from the objects that count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.wire import Resume
from datago_gpu.loader.decode_thread import Ready, Worker
from datago_gpu.loader.durations import DurationCounter
from datago_gpu.loader.handoff import Handoff
from datago_gpu.loader.progress import Progress
from datago_gpu.loader.skips import Skips
from datago_gpu.loader.stats import Queue, Stage, Stats
from datago_gpu.loader.steps import Steps

if TYPE_CHECKING:
    from datago_gpu.feeder.decoding.decode_pool import Pool
    from datago_gpu.loader.mix_counts import MixCounts

__all__ = ["RunStats"]


class RunStats:
    """Knows all that counts in a run. Any thread may call `stats`; one thread at a time takes batches.

    For each batch, the trainer's thread only reads the clock twice and counts two durations.
    """

    def __init__(
        self,
        config: LoaderConfig,
        resume: Resume,
        worker: Worker,
        ready: Handoff[Ready],
        progress: Progress | Steps,
        skips: Skips,
        mix: MixCounts | None,
        pool: Pool | None,
    ) -> None:
        self._config, self.rank = config, config.rank_and_world_size()[0]
        self._worker, self._ready, self._progress = worker, ready, progress
        self._skips, self._mix, self._pool = skips, mix, pool
        self._delivered_before = resume.delivered
        self._data_wait, self._step = DurationCounter(), DurationCounter()
        self._began_at, self._ended_at = time.perf_counter(), 0.0
        self._asked_at = self._taken_at = self.step_began = 0.0
        self.dropped = 0
        """Samples that `drop_last` has left out at the end."""

    @property
    def delivered(self) -> int:
        """Returns the number of samples delivered in this run."""
        return self._progress.delivered - self._delivered_before

    def ask(self) -> None:
        """Notes that the trainer asks for a batch."""
        self._asked_at, self.step_began, self._taken_at = time.perf_counter(), self._taken_at, 0.0
        if self.step_began:
            self._step.add(self._asked_at - self.step_began)

    def take(self) -> None:
        """Notes that the trainer gets the batch that it has asked for."""
        self._taken_at = time.perf_counter()
        self._data_wait.add(self._taken_at - self._asked_at)

    def end(self) -> None:
        """Notes that the stream has ended: rates are of the time until now."""
        self._ended_at = self._ended_at or time.perf_counter()

    def stats(self) -> Stats:
        """Returns the counts so far."""
        seconds = max((self._ended_at or time.perf_counter()) - self._began_at, 1e-9)
        worker, counts, skips, pool = self._worker, self._worker.counts, self._skips, self._pool
        filtered = dict(skips.filtered)
        return Stats(
            delivered=self.delivered,
            skipped=dict(skips.by_reason),
            bytes=worker.bytes,
            seconds=seconds,
            stages=self._stages(seconds),
            feeder_cores=counts.cpu_s / seconds,
            flawed=dict(skips.flaws_by_reason),
            rescued=worker.rescued,
            passed_over=dict(counts.passed_over),
            filtered=sum(filtered.values()),
            filtered_by_epoch=filtered,
            dropped=self.dropped,
            decode_processes=pool.plan.processes if pool else 0,
            decode_cores=pool.cpu_s / seconds if pool else 0.0,
            mix=self._mix.counts() if self._mix else {},
            cache_hits=counts.cache.hits,
            cache_misses=counts.cache.misses,
            cache_bytes=counts.cache.bytes,
            data_wait=self._data_wait.copy(),
            step=self._step.copy(),
            queues=self._queues(),
            epoch=self._progress.epoch,
            epoch_done=self._progress.epoch_done,
            epoch_total=self._epoch_total(),
            rank=self.rank,
            source=self._config.source_type,
        )

    def _stages(self, seconds: float) -> tuple[Stage, ...]:
        worker, ready, delivered = self._worker, self._ready, self.delivered
        found = [
            (name, count.items, count.waited_input_s, count.waited_output_s)
            for name, count in worker.counts.stages.items()
        ]
        found.append(("decode", worker.decoded, worker.wait.seconds, ready.put_wait.seconds))
        found.append(("trainer", delivered, ready.get_wait.seconds, 0.0))
        return tuple(
            Stage(name, items, items / seconds, input_s / seconds, output_s / seconds)
            for name, items, input_s, output_s in found
        )

    def _queues(self) -> tuple[Queue, ...]:
        """Returns the queues. The feeder has counted its own with its last message; some batches are decoded since."""
        depths = {name: each.depth for name, each in self._worker.counts.queues.items()}
        if self._ended_at:
            depths = dict.fromkeys(depths, 0)
        elif "decode" in depths:
            depths["decode"] = max(0, depths["decode"] - self._worker.handed_on)
        of_feeder = (Queue(name, depths[name], each.size) for name, each in self._worker.counts.queues.items())
        return (*of_feeder, Queue("ready", len(self._ready), self._ready.size))

    def _epoch_total(self) -> int | None:
        """Returns about how many samples this rank has in the epoch, if that is known."""
        progress, total, limit = self._progress, self._worker.counts.epoch_samples, self._config.limit
        total = progress.epoch_samples if total is None else total
        if total is None or limit is None:
            return total
        return min(total, progress.epoch_done + max(0, limit - progress.delivered))
