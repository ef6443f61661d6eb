"""Writes batches into the arena and announces them as fast as the trainer gives memory back."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable

from msgspec import msgpack

from datago_gpu.config.limits import Limits
from datago_gpu.feeder import wire
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.arena import Allocator
from datago_gpu.feeder.message import Layout
from datago_gpu.sources.reference import Skipped
from datago_gpu.wait import Wait

__all__ = ["Packer"]

SKIPS_A_MESSAGE = 64
FILTERED_A_MESSAGE = 4096
"""Samples in a row that `where` leaves out, after which they are reported."""

_COPIED_A_TURN = 16 * 1024 * 1024
"""Bytes copied before the event loop may run other tasks: about 5 ms."""

Counting = Callable[[], wire.Counts]


class Packer:
    """Owns the feeder's end of the socket and of the arena. At most `limits.batches_under_way` batches are sent and
    not yet reported."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, memory: mmap.mmap, limits: Limits
    ) -> None:
        self._reader, self._writer, self._memory, self._limits = reader, writer, memory, limits
        self._allocator = Allocator(len(memory))
        self._reported = asyncio.Event()
        self._skipped: list[Skipped] = []
        self._number = 0
        self._out: dict[int, tuple[int, int]] = {}
        """Number of each batch that has not been reported -> its epoch and its number of samples."""
        self._latest_good = -1
        """The last epoch from which a sample has been decoded."""
        self.samples = 0
        """Samples sent, minus those reported as undecodable."""
        self.items = 0
        self.wait = Wait("wait for the trainer")
        """The wait for room in the arena, which the trainer gives back."""
        self._trace: Callable[[str], None] = lambda _: None
        self._written = 0
        """Number of messages written, less those of `beat`."""

    async def listen(self, trace: Callable[[str], None] | None = None) -> None:
        """Reads reports until the trainer is gone. trace: is called with the path of each `Trace`, and with "" before
        the stream ends: the trainer kills this process when it knows of the end."""
        self._trace = trace or self._trace
        decoder: msgpack.Decoder[wire.ToFeeder] = msgpack.Decoder(wire.ToFeeder)
        try:
            while True:
                message = decoder.decode(await wire.read(self._reader))
                if isinstance(message, wire.Trace):
                    self._trace(message.path)
                else:
                    self._take_in(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def _take_in(self, report: wire.Report) -> None:
        epoch, count = self._out.pop(report.number)
        self._allocator.give_back(report.number)
        self.samples -= report.failures
        if report.failures < count:
            self._latest_good = max(self._latest_good, epoch)
        self._reported.set()

    async def send(
        self,
        batch: list[Admitted],
        epoch: int,
        mark: wire.Mark,
        counts: Counting,
        fills: wire.Fills | None = None,
    ) -> None:
        """Waits until there is room for a batch, then sends it."""
        layout = Layout(batch)
        offset = await self._take(layout.size)
        turn = _COPIED_A_TURN
        for place, payload in zip(layout.places, layout.payloads, strict=True):
            if place > turn:
                turn = place + _COPIED_A_TURN
                await asyncio.sleep(0)
            self._memory[offset + place : offset + place + len(payload)] = payload
        self._out[self._number] = epoch, len(batch)
        self.samples += len(batch)
        self.items += len(batch)
        await self._write(layout.message(self._number, epoch, offset, mark, self._take_skips(), counts(), fills))
        self._number += 1

    async def skip(self, skipped: Skipped, counts: Counting) -> None:
        """Reports a skip together with the next batch, or sooner if there are many."""
        joined = self._skipped[-1].joined(skipped) if self._skipped else None
        if joined:
            self._skipped[-1] = joined
        else:
            self._skipped.append(skipped)
        if len(self._skipped) >= SKIPS_A_MESSAGE or (joined and joined.count >= FILTERED_A_MESSAGE):
            await self._write(wire.SkippedOnly(self._take_skips(), counts()))

    async def wait_until_settled(self) -> None:
        """Waits until every batch that was sent has been reported."""
        while len(self._allocator):
            await self._report()

    async def wait_until_decoded(self) -> None:
        """Waits until every batch that was announced has been reported, also after a failure."""
        while self._out:
            await self._report()

    async def has_decoded_since(self, epoch: int) -> bool:
        """Returns whether a sample of this epoch or later could be decoded. Waits for one, or for all reports."""
        while self._latest_good < epoch and self._out:
            await self._report()
        return self._latest_good >= epoch

    async def end(self, counts: wire.Counts, *, fruitless: bool, dropped: int) -> None:
        """Reports that the stream is complete. fruitless, dropped: as in `Ended`."""
        self._trace("")
        await self._write(wire.Ended(self._take_skips(), counts, fruitless, dropped))

    @property
    def batches_out(self) -> int:
        """Returns the number of batches that are sent and not yet reported."""
        return len(self._out)

    @property
    def most_batches_out(self) -> int:
        """Returns the most batches that may be sent and not yet reported."""
        return self._limits.batches_under_way

    async def beat(self, counts: Counting, every_s: float) -> None:
        """Sends the counts whenever no message was sent for `every_s` seconds, but not while the trainer is awaited:
        it then has many messages to read."""
        while True:
            written = self._written
            await asyncio.sleep(every_s)
            if written == self._written and not self.wait.began:
                wire.post(self._writer, wire.Beat(counts()))

    def notice(self, notice: wire.Notice) -> None:
        """Sends a message for the log. To be called from the event loop."""
        wire.post(self._writer, notice)

    def fail(self, kind: str, message: str) -> None:
        """Reports that the stream ends early. To be called from the event loop; later messages are ignored."""
        self._trace("")
        wire.post(self._writer, wire.Failed(kind, message, self._take_skips()))

    async def _take(self, size: int) -> int:
        while True:
            offset = None
            if len(self._allocator) < self._limits.batches_under_way:
                offset = self._allocator.take(self._number, size)
            if offset is not None:
                return offset
            await self._report()

    async def _report(self) -> None:
        self.wait.begin()
        self._reported.clear()
        await self._reported.wait()
        self.wait.end()

    async def _write(self, message: wire.EncodedBatch | wire.SkippedOnly | wire.Ended | wire.Failed) -> None:
        self._written += 1
        self._writer.write(wire.frame(message))
        await self._writer.drain()

    def _take_skips(self) -> list[Skipped]:
        skipped, self._skipped = self._skipped, []
        return skipped
