"""Keeps the stream going where its feeder process dies: another one goes on from there, once a run."""

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
    """The feeder of a run, whichever it is by now, and what has been received of it. Its methods are those of a Feeder.

    `receive`, `waiting`, `report` and `restart` are for one thread; `close` may be called from any, at any time.
    """

    def __init__(self, config: LoaderConfig, resume: wire.Resume) -> None:
        self._config = config
        self._feeder = Feeder(config, resume)
        self._received = Progress(resume)
        self._told: set[_Key] = set()
        """Skips told of that no position accounts for: of an epoch without a batch yet, or of a folder."""
        self._begun = self._closed = False
        self._first_death: FeederError | None = None
        self._counts = self._counted_before = wire.Counts()

    @property
    def pids(self) -> list[int]:
        """Process ids: of the feeder, then of those that download for it."""
        return self._feeder.pids

    @property
    def memory(self) -> mmap.mmap:
        """What the batches of this feeder lie in."""
        return self._feeder.memory

    def receive(self) -> wire.FromFeeder:
        """Wait for the next message. Raises FeederError if the feeder is gone, FeederClosed after `close`."""
        message = self._feeder.receive()
        self._begun = True
        if isinstance(message, wire.Notice):
            return message
        if isinstance(message, wire.EncodedBatch):
            self._received.begin(message.mark)
            self._received.deliver(message.indices)
        skipped = self._first_told(message.skipped)
        if isinstance(message, wire.EncodedBatch):  # the first batch of an epoch tells of the end of the one before
            self._told = {key for key in self._told if key[0] >= message.epoch}
        if isinstance(message, wire.Failed):
            return msgspec.structs.replace(message, skipped=skipped)
        self._counts = message.counts.plus(self._counted_before)
        return msgspec.structs.replace(message, skipped=skipped, counts=self._counts)

    def waiting(self) -> bool:
        """Whether there is something to receive now."""
        return self._feeder.waiting()

    def report(self, number: int, failures: int) -> None:
        """Give the memory of a batch back to the feeder."""
        self._received.delivered -= failures
        self._feeder.report(number, failures)

    def restart(self, death: FeederError) -> None:
        """Go on with another feeder. All batches that were received must have been reported: their memory goes.

        Raises FeederError where that is of no use: one has died before in this run, it never got going, or its samples
        are the server's own draws, which nobody can repeat.
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
        if self._closed:  # meanwhile, and it closed the old one
            self._feeder.close()

    def close(self) -> None:
        """End the feeder, at once, and wake `receive`."""
        self._closed = True
        self._feeder.close()

    def dispose(self) -> None:
        """After `close`, from the thread that receives: let go of descriptors."""
        self._feeder.dispose()

    def _first_told(self, skipped: list[Skipped]) -> list[Skipped]:
        """Those that the feeder before this one has not told of already."""
        new = [skip for skip in skipped if _key(skip) not in self._told]
        self._received.skipped(new)
        self._told |= {_key(skip) for skip in new if skip.index < 0 or skip.epoch > self._received.epoch}
        return new


def _key(skip: Skipped) -> _Key:
    return skip.epoch, skip.index, skip.where
