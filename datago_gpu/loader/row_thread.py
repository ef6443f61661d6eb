"""Runs the user's code on a thread of the trainer's process: reads the rows that the feeder orders, and sends them.

User code may be slow, may raise, or may never return. So nothing waits for this thread: a Loader that closes shuts the
socket and leaves the thread alone, which ends as soon as the user's code returns.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from msgspec import msgpack

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.framing import HEADER_BYTES, body_length, frame, is_readable, receive_exactly
from datago_gpu.loader.given_rows import GivenRows, NotRows
from datago_gpu.loader.row_packing import RowPacking
from datago_gpu.loader.row_sizes import describe_error
from datago_gpu.loader.row_where import passing_rows
from datago_gpu.sources.user import row_wire as wire

__all__ = ["RowThread"]

_MOST_PIECES = 512
"""How many buffers one call of `sendmsg` may have: Linux takes up to 1,024."""


class RowThread(threading.Thread):
    """Serves the feeders of a run, one after the other. `attach` gives it the socket of the next one."""

    def __init__(self, rows: GivenRows, config: LoaderConfig) -> None:
        super().__init__(name="datago-rows", daemon=True)
        self.rows = rows
        self._config = config
        self._channels: SimpleQueue[socket.socket | None] = SimpleQueue()
        self._closing = threading.Event()
        self._server: _RowServer | None = None

    def attach(self, channel: socket.socket) -> None:
        """Makes the thread serve the feeder at the other end, once the feeder before is gone."""
        self._channels.put(channel)

    def stop(self) -> None:
        """Tells the thread to end. The sockets must have been shut down."""
        self._closing.set()
        self._channels.put(None)

    def cause_of(self, message: str) -> BaseException | None:
        """Returns the exception of the user's code that the feeder reports with this message, or None."""
        problem = self._server.problem if self._server else None
        # The message of a mix begins with the name of the source.
        return problem[1] if problem and message.endswith(self._config.redacted(problem[0])) else None

    def run(self) -> None:
        """Runs the thread."""
        packing = RowPacking(self._config)
        while (channel := self._channels.get()) is not None and not self._closing.is_set():
            self._server = server = _RowServer(self.rows, self._config, packing, channel, self._closing)
            try:
                server.serve()
            except (OSError, EOFError):  # the feeder is gone, or the Loader is closed
                pass
            except BaseException as error:
                server.fail("the source cannot be read", error)
            server.end_walk()


class _RowServer:
    """Answers the orders of one feeder."""

    def __init__(
        self,
        rows: GivenRows,
        config: LoaderConfig,
        packing: RowPacking,
        channel: socket.socket,
        closing: threading.Event,
    ) -> None:
        self._rows, self._packing, self._channel, self._closing = rows, packing, channel, closing
        self._rank, self._world_size = config.rank_and_world_size()
        self._where = config.source_config.where
        self._decoder: msgpack.Decoder[wire.Order] = msgpack.Decoder(wire.Order)
        self._turn = 0
        self._numbers: deque[int] = deque()
        """The rows of a sequence that are on order."""
        self._walk: Iterator[Any] | None = None
        self._every, self._seen, self._wanted = 1, 0, 0
        """Of a walk: one of `_every` rows is this rank's, `_seen` rows were read, and `_wanted` rows are on order."""
        self.problem: tuple[str, BaseException] | None = None
        """What the feeder was told of a failure of the user's code, and the exception."""

    def serve(self) -> None:
        """Answers orders until the feeder is gone (EOFError, OSError)."""
        while not self._closing.is_set():
            if not (self._numbers or self._wanted) or is_readable(self._channel):
                self._take(self._receive())
            else:
                self._answer()

    def end_walk(self) -> None:
        """Ends the walk. A generator that was begun here is closed, so that its `finally` runs."""
        walk, self._walk, self._wanted = self._walk, None, 0
        close = None if self._rows.once else getattr(walk, "close", None)
        if callable(close):
            with self._rows.in_use, suppress(Exception):
                close()

    def _take(self, order: wire.Order) -> None:
        if order.turn != self._turn:
            self._turn = order.turn
            self._numbers.clear()
            self.end_walk()
        if isinstance(order, wire.Read):
            self._numbers.extend(order.numbers)
        elif isinstance(order, wire.More):
            self._wanted += order.count if self._walk is not None else 0
        elif isinstance(order, wire.Digest):
            self._list(order)
        else:
            self._begin_walk(order)

    def _list(self, order: wire.Digest) -> None:
        try:
            with self._rows.in_use:
                sizes = self._rows.sizes.get().tobytes() if order.sizes else b""
                passing = passing_rows(self._rows, self._where) if order.sizes else None
                digest = self._rows.digest()
        except (ConfigError, SourceError) as error:
            self._note(str(error), error.__cause__ or error)
        except BaseException as error:
            self.fail("the source cannot be listed", error)
        else:
            self._send(wire.Listed(self._turn, digest, sizes, None if passing is None else passing.tobytes()))

    def _begin_walk(self, order: wire.Walk) -> None:
        try:
            with self._rows.in_use:
                walk = self._rows.walk(order.epoch, self._rank, self._world_size, order.start)
        except NotRows as problem:
            self._break(str(SourceError(str(problem))))
            return
        except BaseException as error:
            self.fail(f"the rows of epoch {order.epoch} cannot be read", error)
            return
        self._walk, self._every, self._seen = walk
        self._wanted = order.count
        self._next_of_rank = order.start * self._every + (self._rank if self._every > 1 else 0)

    def _answer(self) -> None:
        """Reads and sends the next row on order."""
        number = self._numbers[0] if self._numbers else self._next_of_rank
        try:
            row = self._get(self._numbers.popleft()) if self._numbers else self._walk_to(number)
            message, payloads = self._packing.pack(row, self._turn, number)
        except _End:
            # A function that shares the rows itself may have none for one of several ranks.
            empty = not self._seen and (self._every > 1 or self._world_size == 1)
            self._send(wire.RowsEnd(self._turn, empty))
            self.end_walk()
        except NotRows as problem:
            self._break(str(SourceError(str(problem))))  # as the trainer's error will show it
        except BaseException as error:
            self.fail(f"row {number} of the source cannot be read", error)
        else:
            self._send(message, payloads)

    def _get(self, number: int) -> object:
        with self._rows.in_use:
            return self._rows.get(number)

    def _walk_to(self, number: int) -> object:
        """Returns the row with this number in the walk. Raises _End if the walk has no such row."""
        assert self._walk is not None
        while not self._closing.is_set():
            try:
                with self._rows.in_use:
                    row = next(self._walk)
            except StopIteration:
                break
            self._seen += 1
            if self._seen > number:
                self._next_of_rank += self._every
                self._wanted -= 1
                return row
        raise _End

    def fail(self, what: str, error: BaseException) -> None:
        """Tells the feeder, if it is there, that the user's code has raised an error."""
        self._note(str(SourceError(f"{what}: {describe_error(error)}")), error)

    def _note(self, message: str, error: BaseException) -> None:
        self.problem = message, error
        with suppress(OSError):
            self._break(message)

    def _break(self, message: str) -> None:
        self._numbers.clear()
        self.end_walk()
        self._send(wire.Broken(self._turn, message))

    def _send(self, message: wire.Answer, payloads: Sequence[bytes | bytearray | memoryview] = ()) -> None:
        """Sends each row at once: the next one may take for ever. Sending several together would save 3 us a row."""
        _send_all(self._channel, (frame(message), *payloads))

    def _receive(self) -> wire.Order:
        header = receive_exactly(self._channel, HEADER_BYTES)
        return self._decoder.decode(receive_exactly(self._channel, body_length(header)))


class _End(Exception):
    """The walk has come to its end."""


def _send_all(channel: socket.socket, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
    """Sends all bytes. The kernel copies them straight from where they lie, and the GIL is free meanwhile."""
    for begin in range(0, len(buffers), _MOST_PIECES):
        left = [memoryview(each) for each in buffers[begin : begin + _MOST_PIECES] if len(each)]
        while left:
            sent = channel.sendmsg(left)
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]
