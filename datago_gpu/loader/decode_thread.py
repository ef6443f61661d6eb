"""The thread of the trainer's process that receives encoded batches, decodes them and queues the results."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from datago_gpu import errors
from datago_gpu.feeder import wire
from datago_gpu.feeder.decoding.decode_pool import DecodersGone
from datago_gpu.feeder.handle import FeederClosed
from datago_gpu.loader.handoff import Handoff
from datago_gpu.loader.supervisor import Supervisor
from datago_gpu.sources.reference import Flaw, Skipped
from datago_gpu.wait import Wait

if TYPE_CHECKING:
    from datago_gpu.batch import Batch
    from datago_gpu.loader.assembly import Assembled, Assembly

__all__ = ["Ready", "Worker", "wrap_unexpected"]

log = logging.getLogger("datago_gpu")

UNDECODABLE = "undecodable"
OUT_OF_MEMORY = (
    "out of memory while decoding: decode fewer images at once (lower decode_config.processes, threads, batch_size or "
    "samples_buffer_size), or smaller ones (lower decode_config.max_pixels)"
)

_RESCUED = (
    "DALI refused an image of sample %r (%s): %s. Pillow decoded it, and the sample is delivered. Such an image delays "
    "its batch. stats().rescued counts these samples; this is logged only once. If there are many on a GPU, check how "
    "much GPU memory is free"
)

_End = wire.Ended | wire.Failed | errors.FeederError
"""The last message of a feeder. A FeederError means that the feeder died."""


@dataclass(slots=True)
class Ready:
    """An item of the queue to the trainer: a batch, and what happened since the item before."""

    batch: Batch | None
    """None if no sample of the batch could be decoded, and in the item after the last batch."""
    numbers: list[wire.Number] = field(default_factory=list)
    """Numbers of the samples in the batch."""
    mark: wire.Mark | None = None
    """Position of the stream after the batch."""
    skipped: list[Skipped] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    """Flaws of samples in the batch."""
    notices: list[wire.Notice] = field(default_factory=list)
    """Messages of the feeder for the log."""
    fruitless: bool = False
    """True if the stream ends early because the last passes over the source returned no sample."""
    dropped: int = 0
    """Samples left out at the end of the stream because their batches are not full."""


def wrap_unexpected(what: str, error: BaseException) -> errors.DatagoError:
    """Wraps an error of another library in a DatagoError, with the original as its cause. what: what failed."""
    if isinstance(error, MemoryError):
        wrapped = errors.DatagoError(OUT_OF_MEMORY)
    else:
        wrapped = errors.DatagoError(f"unexpected error in {what}: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


class Worker(threading.Thread):
    """Runs from `start` until the stream ends or fails, or until `stop`. Owns the decoder, which is single-threaded."""

    def __init__(self, feeder: Supervisor, make_assembly: Callable[[], Assembly], ready: Handoff[Ready]) -> None:
        super().__init__(name="datago-decode", daemon=True)
        self._feeder, self._make_assembly, self._ready = feeder, make_assembly, ready
        self._skips_behind: list[Skipped] = []
        """Skips that the feeder reported after its last batch. Batches under way are delivered before these skips."""
        self.counts = wire.Counts()
        self.handed_on = 0
        """Batches decoded since the feeder has sent `counts`."""
        self.decoded = self.bytes = self.rescued = 0
        self._pixels = 0
        """Pixels of the batches that are being decoded; counted only if images keep their sizes."""
        self.wait = Wait("wait for the feeder")

    @property
    def pids(self) -> list[int]:
        """Process ids of the feeder and then of its download processes."""
        return self._feeder.pids

    def trace(self, path: str) -> None:
        """See `Feeder.trace`. Any thread may call this."""
        self._feeder.trace(path)

    def stop(self) -> None:
        """Tells the thread to end. It ends once the batch that is being decoded is done."""
        self._feeder.close()
        self._ready.close()

    def run(self) -> None:
        """Runs the thread."""
        self._ready.end(self._run())
        self._feeder.close()
        self._feeder.dispose()  # the decoders, which use its memory, are gone by now

    def _run(self) -> errors.DatagoError | None:
        """Runs the thread, up to the end of the stream. Returns the error that ended it."""
        try:
            assembly = self._make_assembly()
            try:
                self._stream(assembly)
            finally:
                assembly.close()
        except FeederClosed:
            pass
        except errors.DatagoError as problem:
            return problem
        except BaseException as problem:
            return wrap_unexpected("decoding", problem)
        return None

    def _stream(self, assembly: Assembly) -> None:
        """Queues all batches. If the feeder dies, queues what it sent before and then restarts it."""
        ended = None
        try:
            while isinstance(ended := self._follow(assembly), errors.FeederError):
                self._feeder.restart(ended)
                self._skips_behind.clear()  # the new feeder reports them again
        finally:
            end = ended if isinstance(ended, wire.Ended) else wire.Ended([], wire.Counts())
            skipped = self._feeder.record_skips(self._take_skips())
            self._ready.put(Ready(None, skipped=skipped, fruitless=end.fruitless, dropped=end.dropped))
        if isinstance(ended, wire.Failed):
            raise getattr(errors, ended.kind, errors.DatagoError)(ended.message) from self._feeder.cause_of(ended)

    def _follow(self, assembly: Assembly) -> _End | None:
        """Passes on what a feeder sends. Returns its last message, or None if the trainer has closed."""
        try:
            return self._pass_on(assembly)
        except DecodersGone:  # they end with the feeder, or the feeder with them; the next one sends all this again
            assembly.abandon()
            self._pixels = 0
        while not isinstance(message := self._receive(), errors.FeederError):
            pass
        return message

    def _pass_on(self, assembly: Assembly) -> _End | None:
        """Keeps the decoder filled, and queues decoded batches while the feeder has nothing new.

        Returns the last message of the feeder once decoder and arena are empty, or None if the trainer has closed.
        """
        ended: _End | None = None
        while True:
            if len(assembly) and (ended or len(assembly) >= assembly.depth or not self._feeder.waiting()):
                if not self._hand_on(assembly.collect()):
                    return None
            elif ended:
                return ended
            else:
                message = self._receive()
                if isinstance(message, wire.EncodedBatch) and not self._make_room(assembly, message.pixels):
                    return None
                ended = self._take(assembly, message)

    def _receive(self) -> wire.FromFeeder | errors.FeederError:
        self.wait.begin()
        try:
            return self._feeder.receive()
        except errors.FeederError as death:
            return death
        finally:
            self.wait.end()

    def _make_room(self, assembly: Assembly, pixels: int) -> bool:
        """Queues decoded batches until there is room for `pixels` more. Returns False if the trainer has closed."""
        if not pixels:
            return True
        while len(assembly) and not self._ready.fits(self._pixels + pixels):
            if not self._hand_on(assembly.collect()):
                return False
        self._pixels += pixels
        return self._ready.wait(self._pixels)

    def _take(self, assembly: Assembly, message: wire.FromFeeder | errors.FeederError) -> _End | None:
        if isinstance(message, errors.FeederError):
            return message
        if isinstance(message, wire.Failed):
            self._skips_behind += message.skipped
            return message
        if isinstance(message, wire.Notice):
            while len(assembly):  # the notice came after these batches
                self._hand_on(assembly.collect())
            self._ready.put(Ready(None, notices=[message]))
            return None
        self.counts, self.handed_on = message.counts, 0
        if isinstance(message, wire.EncodedBatch):
            if self._skips_behind:
                message = structs.replace(message, skipped=self._take_skips() + message.skipped)
            assembly.submit(message, self._feeder.memory)
            return None
        if isinstance(message, wire.Beat):
            return None
        self._skips_behind += message.skipped
        return message if isinstance(message, wire.Ended) else None

    def _hand_on(self, assembled: Assembled) -> bool:
        """Queues a decoded batch. Returns False if the trainer has closed."""
        message, failures = assembled.message, assembled.failures
        told = self._feeder.report(message, len(message.lengths) - len(assembled.kept))
        self._pixels -= message.pixels
        self.handed_on += 1
        self.decoded += len(assembled.kept)
        self._note_rescued(assembled)
        self.bytes += sum(message.lengths) + sum(sum(column.lengths) for column in message.parts)
        undecodable, flaws = self._problems(message, failures)
        whole = len(assembled.kept) == len(message.indices) or message.fills
        numbers = message.numbers if whole else [message.indices[at] for at in assembled.kept]
        ready = Ready(assembled.batch, numbers, message.mark, told + undecodable, flaws)
        return self._ready.put(ready, message.pixels)

    @staticmethod
    def _problems(message: wire.EncodedBatch, failures: dict[int, str]) -> tuple[list[Skipped], list[Flaw]]:
        """Returns the skips of samples that could not be decoded, and the flaws of the samples that are delivered."""
        if not (failures or message.flaws):
            return [], []
        ids, wheres, counted, mix = message.ids, message.wheres, message.counted, message.column("mix")
        skipped = [
            Skipped(index, ids[at], wheres[at], UNDECODABLE, problem, epoch, mix=mix[at])
            for at, problem in failures.items()
            if at in counted
            for epoch, index in [wire.epoch_and_index(message.indices[at], message.epoch)]
        ]
        flaws = [
            Flaw(ids[at], wheres[at], reason, problem)
            for at, found in message.flaws.items()
            if at not in failures and at in counted
            for reason, problem in found.items()
        ]
        return skipped, flaws

    def _note_rescued(self, assembled: Assembled) -> None:
        """Counts the samples with an image that DALI refused and Pillow decoded. Logs the first of them."""
        if assembled.rescued and not self.rescued:
            at, said = next(iter(assembled.rescued.items()))
            log.warning(_RESCUED, assembled.message.ids[at], assembled.message.wheres[at], said)
        self.rescued += len(assembled.rescued)

    def _take_skips(self) -> list[Skipped]:
        skipped, self._skips_behind = self._skips_behind, []
        return skipped
