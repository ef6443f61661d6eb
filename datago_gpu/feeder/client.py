"""The trainer's side of the feeder process: has it started, reads what it sends, has it ended."""

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
from datago_gpu.feeder.spawn import Processes

__all__ = ["Feeder", "FeederClosed"]


class FeederClosed(Exception):
    """`close` was called while waiting for the feeder."""


class Feeder:
    """A feeder process and the memory shared with it.

    `receive`, `waiting` and `report` are for one thread; `close` may be called from any, at any time, and repeatedly.
    Raises FeederError where no process can be started.
    """

    def __init__(self, config: LoaderConfig, resume: wire.Resume) -> None:
        try:
            self._processes = Processes(config)
        except OSError as error:
            raise FeederError(f"the feeder process cannot be started: {error}") from error
        self._channel = self._processes.channel
        self._redacted = config.redacted
        self._decoder: msgpack.Decoder[wire.FromFeeder] = msgpack.Decoder(wire.FromFeeder)
        self._closing = threading.RLock()  # a signal's handler may close while its thread is closing
        self._closed = self._begun = False
        level = logging.getLogger("datago_gpu").getEffectiveLevel()
        self._send(wire.Start(msgspec.json.encode(config.settled()), resume, level))

    @property
    def pids(self) -> list[int]:
        """Process ids: of the feeder, then of those that download for it."""
        return self._processes.pids

    @property
    def memory(self) -> mmap.mmap:
        """What its batches lie in."""
        return self._processes.memory

    @property
    def killed(self) -> bool:
        """Whether a signal ended it, or one that downloads for it, once it has ended."""
        return self._processes.killed

    def receive(self) -> wire.FromFeeder:
        """Wait for the next message. Raises FeederError if the feeder is gone, FeederClosed after `close`."""
        try:
            header = self._read(wire.HEADER_BYTES)
            self._begun = True
            return self._decoder.decode(self._read(int.from_bytes(header, "big")))
        except (OSError, EOFError):
            if self._closed:
                raise FeederClosed from None
            raise FeederError(self._redacted(self._processes.epitaph(begun=self._begun))) from None

    def waiting(self) -> bool:
        """Whether there is something to receive now."""
        try:
            self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def report(self, number: int, failures: int) -> None:
        """Give the memory of a batch back to the feeder. A feeder that has ended does not mind."""
        self._send(wire.Report(number, failures))

    def close(self) -> None:
        """End the process, at once, in whatever state it is, and wake `receive`."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._processes.kill()

    def dispose(self) -> None:
        """After `close`, from the thread that receives: let go of the process, however long its end takes, of
        descriptors, and of the memory, which goes with its last view."""
        self._processes.dispose()

    def _send(self, message: wire.Start | wire.Report) -> None:
        try:
            self._channel.sendall(wire.frame(message))
        except OSError:
            return  # `receive` finds out, and knows why

    def _read(self, size: int) -> bytearray:
        """Unbuffered, so that `waiting` sees all that has not been read. Raises EOFError at the end."""
        body = bytearray(size)
        view = memoryview(body)
        while view:
            received = self._channel.recv_into(view)
            if not received:
                raise EOFError
            view = view[received:]
        return body
