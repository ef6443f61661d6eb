"""The trainer's side of the feeder process: starts the process, reads its messages, and ends it."""

from __future__ import annotations

import logging
import mmap
import socket
import threading

import msgspec
from msgspec import msgpack

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import FeederError
from datago_gpu.feeder import wire
from datago_gpu.feeder.decoding.decode_pool import Pool
from datago_gpu.feeder.spawn import Processes
from datago_gpu.framing import HEADER_BYTES, body_length, frame, is_readable, receive_exactly
from datago_gpu.sources.user.row_wire import Form

__all__ = ["Feeder", "FeederClosed"]


class FeederClosed(Exception):
    """Says that `close` was called while another thread waited for the feeder."""


class Feeder:
    """Owns a feeder process and the memory shared with it.

    Only one thread may call `receive`, `waiting` and `report`. Any thread may call `close`, at any time and repeatedly.
    pool: for the feeder's decode processes. form: describes the program's own rows, if there are any. beat_s: as in
    `Start`.
    Raises FeederError if no process can be started.
    """

    def __init__(
        self,
        config: LoaderConfig,
        resume: wire.Resume,
        pool: Pool | None = None,
        form: Form | None = None,
        beat_s: float = 0.0,
    ) -> None:
        try:
            self._processes = Processes(config, pool)
        except OSError as error:
            raise FeederError(f"the feeder process cannot be started: {error}") from error
        self._channel = self._processes.channel
        self._redacted = config.redacted
        self._decoder: msgpack.Decoder[wire.FromFeeder] = msgpack.Decoder(wire.FromFeeder)
        self._closing = threading.RLock()  # a signal handler may call close() while its thread is in close()
        self._sending = threading.Lock()
        self._closed = self._begun = False
        level = logging.getLogger("datago_gpu").getEffectiveLevel()
        self._send(wire.Start(msgspec.json.encode(config.resolve()), resume, level, form, beat_s))

    @property
    def pids(self) -> list[int]:
        """Returns the process ids: the feeder's first, then those of its download processes."""
        return self._processes.pids

    @property
    def memory(self) -> mmap.mmap:
        """The shared memory that holds the batches."""
        return self._processes.memory

    @property
    def rows(self) -> socket.socket | None:
        """The socket for rows of the program's own."""
        return self._processes.rows

    @property
    def was_killed(self) -> bool:
        """Returns whether a signal killed the feeder or one of its download processes. Valid after their end."""
        return self._processes.was_killed

    def receive(self) -> wire.FromFeeder:
        """Returns the next message. Raises FeederError if the feeder is gone, FeederClosed after `close`."""
        try:
            header = receive_exactly(self._channel, HEADER_BYTES)
            self._begun = True
            return self._decoder.decode(receive_exactly(self._channel, body_length(header)))
        except (OSError, EOFError):
            if self._closed:
                raise FeederClosed from None
            raise FeederError(self._redacted(self._processes.epitaph(begun=self._begun))) from None

    def waiting(self) -> bool:
        """Returns whether a message can be received now."""
        return is_readable(self._channel)

    def report(self, number: int, failures: int) -> None:
        """Gives the memory of a batch back to the feeder. Does nothing if the feeder has ended."""
        self._send(wire.Report(number, failures))

    def trace(self, path: str) -> None:
        """Has the feeder record what its stages do; with "", has it write the events to the file. Any thread may call
        this. Does nothing if the feeder has ended."""
        self._send(wire.Trace(path))

    def close(self) -> None:
        """Kills the process at once, in whatever state it is, and wakes `receive`."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._processes.kill()

    def dispose(self) -> None:
        """Releases the process (however long its end takes), the descriptors and the memory, which is freed with its
        last view. To be called after `close`, from the thread that receives."""
        self._processes.dispose()

    def _send(self, message: wire.Start | wire.ToFeeder) -> None:
        try:
            with self._sending:
                self._channel.sendall(frame(message))
        except OSError:
            return  # `receive` notices and reports the cause
