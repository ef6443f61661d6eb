"""Starts and ends the feeder process and its download processes, and reports how they ended."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.feeder import arena
from datago_gpu.feeder.decoding.decode_pool import Pool
from datago_gpu.feeder.decoding.fork_server import BY_SIGNAL, describe_exit
from datago_gpu.interpreter import WANTED, command
from datago_gpu.units import MiB

__all__ = ["Processes"]

LAST_WORDS_BYTES = 4000

KILL_S = 0.2
"""Seconds to wait for a killed process. It is gone in milliseconds unless it hangs in the kernel, for example on a
dead network file system."""

GENTLE_S = 0.15
"""Seconds for a feeder to end its decode processes. If it is killed, the kernel kills them, and the process that they
fall to has to wait for them: in a container that may be the trainer, which knows nothing of them."""

EXIT_S = 1.0
"""Seconds to wait for a process that has closed its socket and is about to end."""

ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * MiB),
    "MALLOC_MMAP_THRESHOLD_": str(32 * MiB),
    "MALLOC_ARENA_MAX": "1",
}
"""By default glibc returns memory to the system as soon as 128 KiB are free, so that each payload causes new page
faults: 25 us for 40 KB, 150 us for 400 KB. It also keeps a heap per thread, over which payloads would scatter."""


class Processes:
    """Holds the processes of one feeder. All are children of this process, which alone can learn how each of them
    ended; decode processes, if there is a pool for them, belong to the feeder.

    Raises OSError or FeederError if one of them cannot be started; then none is left running.
    """

    _last_words: int
    _python: str
    _feeder: subprocess.Popen[bytes]
    _downloading: list[subprocess.Popen[bytes]]
    channel: socket.socket
    """To the feeder."""
    rows: socket.socket | None
    """To the feeder, for rows of the program's own; None if there are none."""
    memory: mmap.mmap
    """Shared with the feeder."""

    def __init__(self, config: LoaderConfig, pool: Pool | None = None) -> None:
        self._is_gentle = pool is not None
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as lent:
            self._last_words, _ = arena.unnamed_file("datago_gpu-stderr")
            undo.callback(os.close, self._last_words)
            self.channel, theirs = socket.socketpair()
            undo.callback(self.channel.close)
            lent.enter_context(theirs)
            self.rows, rows = None, []
            if config.takes_rows:
                self.rows, feeders_end = socket.socketpair()
                undo.callback(self.rows.close)
                rows = [lent.enter_context(feeders_end).fileno()]
            limits = Limits.of(config)
            memory = arena.create(limits.arena)
            lent.callback(os.close, memory)
            self.memory = arena.map_memory(os.dup(memory))
            links: list[int] = []
            self._downloading = []
            for _ in range(config.http_config.download_processes):
                feeders, its = map(lent.enter_context, socket.socketpair())
                between = arena.create(limits.payload)
                lent.callback(os.close, between)
                self._downloading.append(self._spawn("datago_gpu.feeder.download", its.fileno(), between))
                undo.callback(_end, self._downloading[-1])
                links += [feeders.fileno(), between]
            ends = pool.connect(lent) if pool else ()
            plan = [msgspec.json.encode(pool.plan).decode(), ",".join(map(str, ends))] if pool else ["", ""]
            more = [*plan, ",".join(map(str, rows))]
            self._feeder = self._spawn(
                "datago_gpu.feeder", theirs.fileno(), memory, *links, lent=[*ends, *rows], more=more
            )
            undo.pop_all()

    def _spawn(
        self,
        module: str,
        channel: int,
        memory: int,
        *links: int,
        lent: Sequence[int] = (),
        more: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Starts a new Python, not a fork: CUDA and threads do not survive a fork. It gets its own process group, so
        that Ctrl-C reaches the trainer alone."""
        line = command(module, *map(str, (channel, memory, os.getpid(), *links)), *more)
        self._python = line[0]
        return subprocess.Popen(
            line,
            pass_fds=(channel, memory, *links, *lent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._last_words,
            env={**ENVIRONMENT, **os.environ},
            process_group=0,
        )

    @property
    def pids(self) -> list[int]:
        """Returns the process ids: the feeder's first, then those of its download processes."""
        return [process.pid for process in self._all]

    @property
    def was_killed(self) -> bool:
        """Returns whether a signal ended one of them, or a decode process. Valid once the feeder has ended."""
        codes = [process.returncode or 0 for process in self._all]
        return any(code < 0 or code > BY_SIGNAL for code in codes)

    def kill(self) -> None:
        """Kills all processes at once: they own nothing that must be saved. Waits no longer than GENTLE_S and
        KILL_S."""
        if self._is_gentle:
            self._feeder.terminate()
        for channel in (self.channel, self.rows):
            with contextlib.suppress(OSError):
                if channel:
                    channel.shutdown(socket.SHUT_RDWR)
        if self._is_gentle:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._feeder.wait(GENTLE_S)
        for process in self._all:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in self._all:
                process.wait(KILL_S)

    def dispose(self) -> None:
        """Releases the processes (however long their end takes), the descriptors and the memory, which is freed with
        its last view. To be called after `kill`."""
        for process in self._all:
            process.wait()
        self.channel.close()
        if self.rows:
            self.rows.close()
        with contextlib.suppress(BufferError):  # a view of the memory still exists
            self.memory.close()
        if self._last_words >= 0:
            os.close(self._last_words)
            self._last_words = -1

    def epitaph(self, *, begun: bool) -> str:
        """Describes how a feeder ended that has closed its socket without being asked. begun: it had sent a message."""
        try:
            how = describe_exit(self._feeder.wait(EXIT_S))
        except subprocess.TimeoutExpired:
            how = describe_exit(_end(self._feeder))
        deadline = time.monotonic() + EXIT_S
        for process in self._downloading:  # a process may close its sockets a moment before it ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(max(0.0, deadline - time.monotonic()))
                how += f", because a download process ended {describe_exit(code)}" if code else ""
        size = os.fstat(self._last_words).st_size
        words = os.pread(self._last_words, LAST_WORDS_BYTES, max(0, size - LAST_WORDS_BYTES)).decode(errors="replace")
        said = f"the feeder process ended {how}; its last output: {words.strip() or '(none)'}"
        if self._feeder.returncode == -signal.SIGKILL:
            said += "\nSystems end a process in this way when memory is full: docs/operations/memory.md"
        if begun or self._feeder.returncode < 0 or "Traceback" in words:
            return said
        return f"{said}\nIt was started as {self._python!r}: if this is not a Python, {WANTED}"

    @property
    def _all(self) -> list[subprocess.Popen[bytes]]:
        return [self._feeder, *self._downloading]


def _end(process: subprocess.Popen[bytes]) -> int:
    """Waits for the process and returns its exit status."""
    process.kill()
    return process.wait()
