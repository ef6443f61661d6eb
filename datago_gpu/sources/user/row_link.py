"""The feeder's end of the socket for rows: orders rows, and makes samples of the answers."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from msgspec import Struct, msgpack

from datago_gpu.errors import SourceError
from datago_gpu.framing import HEADER_BYTES, body_length, frame
from datago_gpu.sources.attributes import check_attributes
from datago_gpu.sources.class_labels import ClassLabels
from datago_gpu.sources.order import renumber
from datago_gpu.sources.reference import BAD_ATTRIBUTES, Part, Refs, SampleRef, Skipped
from datago_gpu.sources.rows import Numbers
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.user import row_wire as wire
from datago_gpu.units import MiB

__all__ = ["RowLink", "row_link"]

_AHEAD = 32
"""How many rows are ordered at a time, and how many may be on order before the next ones are."""
_BUFFER_BYTES = MiB


@asynccontextmanager
async def row_link(descriptor: int, form: wire.Form, labels: ClassLabels) -> AsyncIterator[RowLink]:
    """Yields the link to the program's rows. descriptor: of the socket."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor), limit=_BUFFER_BYTES)
    try:
        yield RowLink(form, reader, writer, labels)
    finally:
        writer.close()


class _Message(Struct):
    """A message that arrives piece by piece. If a reader is cancelled, the next one reads the missing pieces."""

    length: int | None = None
    answer: wire.Answer | None = None
    payloads: list[bytes] = []


class RowLink:
    """Reads rows. One listing at a time: each new one cancels the one before.

    Rows are read from the socket only when they are asked for. So the socket's own buffer bounds the bytes that the
    trainer's process can send ahead.
    """

    def __init__(
        self, form: wire.Form, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, labels: ClassLabels
    ) -> None:
        self.form, self._labels = form, labels
        self._reader, self._writer = reader, writer
        self._decoder: msgpack.Decoder[wire.Answer] = msgpack.Decoder(wire.Answer)
        self._turn = 0
        self._arriving = _Message()

    async def listed(self, *, sizes: bool) -> wire.Listed:
        """Returns the digest of the sequence, and on request the sizes of all rows. Raises SourceError."""
        turn = self._begin()
        self._post(wire.Digest(turn, sizes))
        answer, _ = await self._answer(turn)
        assert isinstance(answer, wire.Listed)
        return answer

    def read(self, numbers: Numbers) -> Refs:
        """Yields the rows of these numbers, in this order; `index` is the number. Raises SourceError."""

        def order(turn: int, asked: int) -> wire.Order:
            return wire.Read(turn, list(map(int, numbers[asked : asked + _AHEAD])))

        return self._samples(order, len(numbers))

    def walk(self, epoch: int, start: int) -> Refs:
        """Yields this rank's rows of an epoch, from number `start` on. Raises SourceError."""

        def order(turn: int, asked: int) -> wire.Order:
            return wire.More(turn, _AHEAD) if asked else wire.Walk(turn, epoch, start, _AHEAD)

        return self._samples(order, sys.maxsize, start)

    async def _samples(self, order: Callable[[int, int], wire.Order], count: int, start: int | None = None) -> Refs:
        """Yields `count` samples, or all up to the end of a walk.

        order: makes the order of the next rows of a turn, of which so many were asked for before. start: number of the
        first sample; None if samples have the numbers of their rows.
        """
        turn, asked = self._begin(), 0
        for taken in range(count):
            while asked < min(count, taken + _AHEAD + 1):
                self._post(order(turn, asked))
                asked += _AHEAD
            answer, payloads = await self._answer(turn)
            if isinstance(answer, wire.RowsEnd):
                if answer.empty:
                    raise SourceError("the source has no rows: the program's iterable ended before its first row")
                return
            sample = _sample_of(answer, payloads, self._labels)
            yield sample if start is None else renumber(sample, start + taken)

    def _begin(self) -> int:
        self._turn += 1
        return self._turn

    def _post(self, order: wire.Order) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame(order))

    async def _answer(self, turn: int) -> tuple[wire.Answer, list[bytes]]:
        """Returns the next answer of this turn. Raises SourceError if the program's code has failed."""
        if turn != self._turn:
            raise RuntimeError("another listing of the rows has begun")
        while True:
            answer, payloads = await self._receive()
            if answer.turn == turn:
                break
        if isinstance(answer, wire.Broken):
            raise SourceError(answer.message)
        return answer, payloads

    async def _receive(self) -> tuple[wire.Answer, list[bytes]]:
        """Reads the next message. Each `readexactly` takes all of its bytes or, if it is cancelled, none."""
        message, reader = self._arriving, self._reader
        try:
            if message.length is None:
                message.length = body_length(await reader.readexactly(HEADER_BYTES))
            if message.answer is None:
                message.answer = self._decoder.decode(await reader.readexactly(message.length))
            if isinstance(message.answer, wire.Given):
                lengths = [piece.length for piece in message.answer.pieces if piece.length >= 0]
                for length in lengths[len(message.payloads) :]:
                    message.payloads.append(await reader.readexactly(length))
        except asyncio.IncompleteReadError:
            raise SourceError("the thread of the trainer's process that reads the rows has ended") from None
        self._arriving = _Message()
        return message.answer, message.payloads


def _sample_of(answer: wire.Answer, payloads: list[bytes], labels: ClassLabels) -> SampleRef | Skipped:
    if isinstance(answer, wire.Refused):
        return Skipped(answer.number, answer.id, f"row {answer.number}", answer.reason, answer.detail)
    assert isinstance(answer, wire.Given)
    attributes, problem = (b"{}", answer.flaw) if answer.flaw else check_attributes(answer.attributes)
    label, flaws = labels.of(answer.label)
    if problem:
        flaws[BAD_ATTRIBUTES] = problem
    info = SampleInfo(answer.id, attributes=attributes, label=label)
    sample = SampleRef(answer.number, info, flaws=flaws, size=answer.size)
    coming = iter(payloads)
    image, *parts = answer.pieces
    sample.path, sample.url = _text(image.path), image.url
    if image.length >= 0:
        sample.payload, sample.url = next(coming), f"row {answer.number}"
    for piece in parts:
        payload = next(coming) if piece.length >= 0 else None
        sample.parts.append(Part(piece.name, piece.kind, _text(piece.path), piece.url, payload))
    return sample


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
