"""The one thread of the trainer's process: takes encoded batches from the feeder, has them decoded, hands them on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from datago_gpu import errors
from datago_gpu.batch import Batch
from datago_gpu.decode.base import DecodedImages, Decoder, EncodedImages
from datago_gpu.feeder import wire
from datago_gpu.feeder.arena import aligned
from datago_gpu.feeder.client import FeederClosed
from datago_gpu.handoff import Handoff
from datago_gpu.sources.base import Position, Skipped
from datago_gpu.supervisor import Supervisor

__all__ = ["Ready", "Worker"]

UNDECODABLE = "undecodable"

_End = wire.Ended | wire.Failed | errors.FeederError
"""How a feeder's messages end; the error is its death."""


@dataclass(slots=True)
class Ready:
    """What is handed to the trainer: a batch, and what happened on the way to it."""

    batch: Batch | None
    """None where none of its samples could be decoded, and behind the last batch."""
    indices: list[int] = field(default_factory=list)
    epoch: int = 0
    resume_at: Position | None = None
    skipped: list[Skipped] = field(default_factory=list)


class Worker(threading.Thread):
    """Runs from `start` until the stream ends, fails, or `stop`. Owns the decoder, which wants a single thread."""

    def __init__(self, feeder: Supervisor, make_decoder: Callable[[], Decoder], ready: Handoff[Ready]) -> None:
        super().__init__(name="datago-decode", daemon=True)
        self._feeder, self._make_decoder, self._ready = feeder, make_decoder, ready
        self._under_way: deque[wire.EncodedBatch] = deque()
        self._skipped: list[Skipped] = []
        self.stages: dict[str, wire.StageCount] = {}
        self.decoded = self.bytes = 0
        self.waited_s = 0.0
        """For the feeder."""

    @property
    def feeder_pid(self) -> int:
        """Process id of the feeder."""
        return self._feeder.pid

    def stop(self) -> None:
        """End the thread; it takes as long as the batch that is being decoded."""
        self._feeder.close()
        self._ready.close()

    def run(self) -> None:
        """The thread's main line."""
        error: BaseException | None = None
        try:
            decoder = self._make_decoder()
            try:
                self._stream(decoder)
            finally:
                decoder.close()
        except FeederClosed:
            pass
        except BaseException as problem:
            error = problem
        self._ready.end(error)
        self._feeder.close()
        self._feeder.dispose()

    def _stream(self, decoder: Decoder) -> None:
        """Hand on all that comes. What a feeder sent before its death is handed on before anything is done about it."""
        try:
            while isinstance(ended := self._follow(decoder), errors.FeederError):
                self._feeder.restart(ended)
        finally:
            self._ready.put(Ready(None, skipped=self._take_skips()))
        if isinstance(ended, wire.Failed):
            raise getattr(errors, ended.kind)(ended.message)

    def _follow(self, decoder: Decoder) -> _End | None:
        """Keep the decoder filled; while the feeder has nothing new, hand on what is decoded. None: the trainer closed.

        When it returns an end, the decoder is empty, and so is the arena.
        """
        ended: _End | None = None
        while True:
            if self._under_way and (ended or len(self._under_way) >= decoder.depth or not self._feeder.waiting()):
                if not self._hand_on(decoder.collect()):
                    return None
            elif ended:
                return ended
            else:
                ended = self._take(decoder, self._receive())

    def _receive(self) -> wire.FromFeeder | errors.FeederError:
        clock = time.perf_counter()
        try:
            return self._feeder.receive()
        except errors.FeederError as death:
            return death
        finally:
            self.waited_s += time.perf_counter() - clock

    def _take(self, decoder: Decoder, message: wire.FromFeeder | errors.FeederError) -> _End | None:
        if isinstance(message, errors.FeederError):
            return message
        if isinstance(message, wire.Failed):
            self._skipped += message.skipped
            return message
        self.stages = message.stages
        if isinstance(message, wire.EncodedBatch):
            decoder.submit(_images(message, self._feeder))
            self._under_way.append(message)
            return None
        self._skipped += message.skipped
        return message if isinstance(message, wire.Ended) else None

    def _hand_on(self, decoded: DecodedImages) -> bool:
        """False when the trainer has closed."""
        message = self._under_way.popleft()
        failed = sorted(decoded.failures)
        self._feeder.report(message.number, len(failed))
        self.decoded += len(message.ids) - len(failed)
        self.bytes += sum(message.lengths)
        self._skipped += message.skipped
        self._skipped += [
            Skipped(
                message.indices[at],
                message.ids[at],
                message.wheres[at],
                UNDECODABLE,
                decoded.failures[at],
                message.epoch,
            )
            for at in failed
        ]
        kept = [at for at in range(len(message.ids)) if at not in decoded.failures]
        batch = _batch(message, kept, decoded) if kept else None
        indices = [message.indices[at] for at in kept]
        return self._ready.put(Ready(batch, indices, message.epoch, message.resume_at, self._take_skips()))

    def _take_skips(self) -> list[Skipped]:
        skipped, self._skipped = self._skipped, []
        return skipped


def _images(message: wire.EncodedBatch, feeder: Supervisor) -> EncodedImages:
    """Views of the arena; nothing is copied."""
    count = len(message.lengths)
    payloads: list[NDArray[np.uint8]] = []
    offset = message.offset
    for length in message.lengths:
        payloads.append(np.frombuffer(feeder.memory, np.uint8, length, offset))
        offset += aligned(length)
    return EncodedImages(
        payloads=payloads,
        sizes=np.frombuffer(message.sizes, np.int32).reshape(count, 2),
        regions=np.frombuffer(message.regions, np.float32).reshape(count, 4),
        orientations=np.frombuffer(message.orientations, np.uint8),
        target=message.bucket,
    )


def _batch(message: wire.EncodedBatch, kept: list[int], decoded: DecodedImages) -> Batch:
    count = len(message.ids)
    embeddings = np.frombuffer(message.embeddings, np.float32).reshape(count, -1) if message.embeddings else None
    return Batch(
        ids=[message.ids[at] for at in kept],
        sources=[message.sources[at] for at in kept],
        image=decoded.image,
        original_sizes=np.frombuffer(message.original_sizes, np.int32).reshape(count, 2)[kept],
        crops=np.frombuffer(message.crops, np.float32).reshape(count, 4)[kept],
        bucket=message.bucket,
        attributes=[msgspec.json.decode(message.attributes[at]) for at in kept],
        tags=[message.tags[at] for at in kept],
        embeddings=None if embeddings is None else embeddings[kept],
        duplicate_states=[message.duplicate_states[at] for at in kept],
        epoch=message.epoch,
    )
