"""The trainer's side of the feeder process: starts it, reads what it sends, ends it."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
from msgspec import msgpack

import datago_gpu
from datago_gpu.config import LoaderConfig, MiB
from datago_gpu.errors import FeederError
from datago_gpu.feeder import arena, wire

__all__ = ["Feeder", "FeederClosed"]

LAST_WORDS_BYTES = 4000

KILL_S = 0.2
"""A killed process is gone in milliseconds, unless it hangs in the kernel, say on a dead network file system."""

EXIT_S = 1.0
"""One that has closed its socket is about to end."""

ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * MiB),
    "MALLOC_MMAP_THRESHOLD_": str(32 * MiB),
    "MALLOC_ARENA_MAX": "1",
}
"""By default glibc gives memory back as soon as 128 KiB are free, so that each payload faults its pages in anew: 25 us
for 40 KB, 150 us for 400 KB. And it keeps a heap for each thread, between which payloads would scatter."""


class FeederClosed(Exception):
    """`close` was called while waiting for the feeder."""


class Feeder:
    """A feeder process and the memory shared with it.

    `receive`, `waiting` and `report` are for one thread; `close` may be called from any, at any time, and repeatedly.
    Raises FeederError where no process can be started.
    """

    _channel: socket.socket
    _last_words: int
    _process: subprocess.Popen[bytes]
    memory: mmap.mmap

    def __init__(self, config: LoaderConfig, resume: wire.Resume) -> None:
        try:
            self._open(config.arena_mb * MiB)
        except OSError as error:
            raise FeederError(f"the feeder process cannot be started: {error}") from error
        self._redacted = config.redacted
        self._decoder: msgpack.Decoder[wire.FromFeeder] = msgpack.Decoder(wire.FromFeeder)
        self._closing = threading.RLock()  # a signal's handler may close while its thread is closing
        self._closed = False
        rank, world_size = config.rank_and_world_size()
        settled = config.with_source(rank=rank, world_size=world_size)
        self._send(wire.Start(msgspec.json.encode(settled), resume))

    @property
    def pid(self) -> int:
        """Process id of the feeder."""
        return self._process.pid

    @property
    def killed(self) -> bool:
        """Whether a signal ended it, once it has ended."""
        return (self._process.returncode or 0) < 0

    def receive(self) -> wire.FromFeeder:
        """Wait for the next message. Raises FeederError if the feeder is gone, FeederClosed after `close`."""
        try:
            header = self._read(wire.HEADER_BYTES)
            return self._decoder.decode(self._read(int.from_bytes(header, "big")))
        except (OSError, EOFError):
            if self._closed:
                raise FeederClosed from None
            raise FeederError(self._epitaph()) from None

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
        """End the process, at once, in whatever state it is (it owns nothing that needs saving), and wake `receive`."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._process.kill()
                with contextlib.suppress(OSError):
                    self._channel.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(KILL_S)

    def dispose(self) -> None:
        """After `close`, from the thread that receives: let go of the process, however long its end takes, of
        descriptors, and of the memory, which goes with its last view."""
        self._process.wait()
        self._channel.close()
        with contextlib.suppress(BufferError):  # there is a view
            self.memory.close()
        if self._last_words >= 0:
            os.close(self._last_words)
            self._last_words = -1

    def _open(self, arena_bytes: int) -> None:
        """Make what is shared with the process, and the process; all of it or nothing."""
        with contextlib.ExitStack() as undo:
            self._last_words = os.memfd_create("datago_gpu-stderr", os.MFD_CLOEXEC)
            undo.callback(os.close, self._last_words)
            self._channel, theirs = socket.socketpair()
            undo.callback(self._channel.close)
            with theirs, contextlib.ExitStack() as spawned:
                descriptor = arena.create(arena_bytes)
                spawned.callback(os.close, descriptor)
                self.memory = arena.map_memory(os.dup(descriptor))
                self._process = self._spawn(theirs.fileno(), descriptor)
            undo.pop_all()

    def _spawn(self, channel: int, memory: int) -> subprocess.Popen[bytes]:
        """A new Python, not a fork: CUDA and threads do not survive one. It has a process group of its own, so that
        Ctrl-C reaches the trainer alone."""
        package = str(Path(datago_gpu.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "datago_gpu.feeder", str(channel), str(memory), str(os.getpid())],
            pass_fds=(channel, memory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._last_words,
            env={**ENVIRONMENT, **os.environ, "PYTHONPATH": path},
            process_group=0,
        )

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

    def _epitaph(self) -> str:
        """What can be said of a feeder that has closed its socket unasked."""
        try:
            code = self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with status {code}"
        size = os.fstat(self._last_words).st_size
        words = os.pread(self._last_words, LAST_WORDS_BYTES, max(0, size - LAST_WORDS_BYTES)).decode(errors="replace")
        return f"the feeder process ended {how}; its last words: {self._redacted(words.strip()) or '(none)'}"
