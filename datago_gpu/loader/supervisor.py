"""Restarts a feeder process that dies, at most once in a run. The new feeder continues where the old one stopped."""

from __future__ import annotations

import logging
import mmap

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import FeederError
from datago_gpu.feeder import wire
from datago_gpu.feeder.client import Feeder
from datago_gpu.loader.progress import Progress
from datago_gpu.sources.base import Skipped

__all__ = ["Supervisor"]

log = logging.getLogger("datago_gpu")

_Key = tuple[int, int, str]


class Supervisor:
    """Wraps the current feeder of a run and records what was received from it. Has the methods of a Feeder.

    `receive`, `waiting`, `report` and `restart` are for one thread; any thread may call `close` at any time.
    """

    def __init__(self, config: LoaderConfig, resume: wire.Resume) -> None:
        self._config = config
        self._feeder = Feeder(config, resume)
        self._received = Progress(resume)
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
        self._begun = True
        if isinstance(message, wire.Notice):
            return message
        if isinstance(message, wire.EncodedBatch):
            self._received.begin(message.mark)
            self._received.deliver(message.indices)
        skipped = self._first_told(message.skipped)
        if isinstance(message, wire.EncodedBatch):  # an epoch's first batch carries the last skips of the epoch before
            self._told = {key for key in self._told if key[0] >= message.epoch}
        if isinstance(message, wire.Failed):
            return msgspec.structs.replace(message, skipped=skipped)
        self._counts = message.counts.plus(self._counted_before)
        return msgspec.structs.replace(message, skipped=skipped, counts=self._counts)

    def waiting(self) -> bool:
        """Returns whether a message can be received now."""
        return self._feeder.waiting()

    def report(self, number: int, failures: int) -> None:
        """Returns the memory of a batch to the feeder."""
        self._received.delivered -= failures
        self._feeder.report(number, failures)

    def restart(self, death: FeederError) -> None:
        """Starts another feeder. All received batches must have been reported before: their memory is freed.

        Raises FeederError if a restart cannot help: a feeder has died before in this run, the feeder never started to
        work, or the samples are random draws of the server, which cannot be repeated.
        """
        if self._first_death:
            raise FeederError(f"{death}\nIt had been started again once in this run, after: {self._first_death}")
        if self._config.draws_from_server or not (self._begun or self._feeder.killed):
            raise death
        self._first_death, self._counted_before = death, self._counts
        log.warning("%s; another one goes on from there", death)
        self._feeder.close()
        self._feeder.dispose()
        try:
            self._feeder = Feeder(self._config, self._received.resume())
        except FeederError as problem:
            raise FeederError(f"{death}\nNo other could take its place: {problem}") from problem
        if self._closed:  # `close` ran meanwhile and closed the old feeder
            self._feeder.close()

    def close(self) -> None:
        """Ends the feeder at once and wakes `receive`."""
        self._closed = True
        self._feeder.close()

    def dispose(self) -> None:
        """Closes the file descriptors. Call it after `close`, on the thread that receives."""
        self._feeder.dispose()

    def _first_told(self, skipped: list[Skipped]) -> list[Skipped]:
        """Returns the skips that the previous feeder has not reported already."""
        new = [skip for skip in skipped if _key(skip) not in self._told]
        self._received.skipped(new)
        self._told |= {_key(skip) for skip in new if skip.index < 0 or skip.epoch > self._received.epoch}
        return new


def _key(skip: Skipped) -> _Key:
    return skip.epoch, skip.index, skip.where
