"""Restarts a feeder process that dies, at most once in a run. The new feeder continues where the old one stopped."""

from __future__ import annotations

import logging
import mmap
from typing import TYPE_CHECKING

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import FeederError
from datago_gpu.feeder import wire
from datago_gpu.feeder.decoding.decode_pool import Pool
from datago_gpu.feeder.handle import Feeder
from datago_gpu.loader.steps import progress_of
from datago_gpu.sources.reference import FILTERED_IN_MIX, Skipped
from datago_gpu.sources.user.row_wire import Form

if TYPE_CHECKING:
    from datago_gpu.loader.row_thread import RowThread

__all__ = ["Supervisor"]

log = logging.getLogger("datago_gpu")

BEAT_S = 1.0
"""How often a feeder tells its counts if it has no batch to send."""

_Key = tuple[int, int, str]


class Supervisor:
    """Wraps the current feeder of a run and records what is done of what it sent.

    pool: for the decode processes of the feeders, which die with them. rows: the thread that reads the program's own
    rows, if there are any. The Supervisor owns both from now on.
    Any thread may call `close` and `trace` at any time; all other methods are for one thread.
    """

    def __init__(
        self, config: LoaderConfig, resume: wire.Resume, pool: Pool | None = None, rows: RowThread | None = None
    ) -> None:
        self._config, self._pool, self._rows = config, pool, rows
        self._form = Form(rows.rows.count) if rows else None
        try:
            self._feeder = self._start(resume)
        except BaseException:
            self._close_pool()
            raise
        self._done = progress_of(config, resume)
        """Everything that was reported as decoded or skipped."""
        self._told: set[_Key] = set()
        """Reported skips that no resume position covers (unreadable folders, or an epoch that has no batch yet). Kept
        so that they are not reported twice."""
        self._begun = self._closed = False
        self._first_death: FeederError | None = None
        self._counts = self._counted_before = wire.Counts()

    @property
    def pids(self) -> list[int]:
        """Process ids of the feeder and then of its download processes."""
        return self._feeder.pids

    @property
    def memory(self) -> mmap.mmap:
        """The shared memory that holds the batches of the current feeder."""
        return self._feeder.memory

    def receive(self) -> wire.FromFeeder:
        """Waits for the next message. Raises FeederError if the feeder died, FeederClosed after `close`."""
        message = self._feeder.receive()
        self._begun = self._begun or not isinstance(message, wire.Beat)
        if isinstance(message, wire.Notice | wire.Failed):
            return message
        self._counts = message.counts.plus(self._counted_before)
        return msgspec.structs.replace(message, counts=self._counts)

    def waiting(self) -> bool:
        """Returns whether a message can be received now."""
        return self._feeder.waiting()

    def report(self, message: wire.EncodedBatch, failures: int) -> list[Skipped]:
        """Records a decoded batch as done, and returns its memory to the feeder.

        Returns the skips that came with the batch and that no feeder before has reported.
        """
        self._done.begin(message.mark)
        self._done.deliver(message.numbers, failures)
        skipped = self.record_skips(message.skipped)
        # An epoch's first batch carries the last skips of the epoch before.
        self._told = {key for key in self._told if key[0] >= message.epoch}
        self._feeder.report(message.number, failures)
        return skipped

    def trace(self, path: str) -> None:
        """See `Feeder.trace`. Any thread may call this."""
        self._feeder.trace(path)

    def restart(self, death: FeederError) -> None:
        """Starts another feeder. It sends again what was not reported as done. The memory of all batches is freed.

        Raises FeederError if a restart cannot help: a feeder has died before in this run, the feeder never started to
        work, or the samples are random draws of the server, which cannot be repeated.
        """
        if self._first_death:
            raise FeederError(f"{death}\nThe feeder was already restarted once in this run, after: {self._first_death}")
        if self._config.draws_from_server or not (self._begun or self._feeder.was_killed):
            raise death
        if self._rows and self._rows.rows.once and self._rows.rows.used:
            raise FeederError(f"{death}\nIt cannot be restarted: the source is an iterator, which cannot start again")
        self._first_death, self._counted_before = death, self._counts
        log.warning("%s; a new one continues from there", str(death))  # a record that is kept must not keep frames
        self._feeder.close()
        self._feeder.dispose()
        if self._pool:
            self._pool.wait_for_end()
        try:
            self._feeder = self._start(self._done.resume())
        except FeederError as problem:
            raise FeederError(f"{death}\nIt could not be restarted: {problem}") from problem
        if self._closed:  # `close` ran meanwhile and closed the old feeder
            self._feeder.close()

    def close(self) -> None:
        """Ends the feeder at once and wakes `receive`."""
        self._closed = True
        if self._pool:
            self._pool.wake()
        self._feeder.close()
        if self._rows:
            self._rows.stop()

    def dispose(self) -> None:
        """Closes the file descriptors. Call it after `close`, on the thread that receives."""
        self._feeder.dispose()
        self._close_pool()

    def record_skips(self, skipped: list[Skipped]) -> list[Skipped]:
        """Records skips as done. Returns those that no feeder before has reported."""
        new = [skip for skip in skipped if _key(skip) not in self._told]
        self._done.skip(new)
        self._told |= {_key(skip) for skip in new if not self._done.covers(skip) and not _is_filtered_in_mix(skip)}
        return new

    def cause_of(self, failed: wire.Failed) -> BaseException | None:
        """Returns the exception of the program's own code that a message of the feeder is about, or None."""
        return self._rows.cause_of(failed.message) if self._rows else None

    def _start(self, resume: wire.Resume) -> Feeder:
        feeder = Feeder(self._config, resume, self._pool, self._form, BEAT_S)
        if self._rows and feeder.rows:
            self._rows.attach(feeder.rows)
        return feeder

    def _close_pool(self) -> None:
        if self._pool:
            self._pool.close()


def _is_filtered_in_mix(skip: Skipped) -> bool:
    """Returns whether `where` of a source of a mix leaves samples out, which have no number in the mix. They are too
    many to be kept; after a crash, some are counted twice."""
    return skip.is_filtered and skip.index == FILTERED_IN_MIX


def _key(skip: Skipped) -> _Key:
    return skip.epoch, skip.index, skip.where
