"""The trainer's ends of its decode processes: the memory shared with them, the pipe of tasks, the socket of results."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from collections.abc import Callable

from msgspec import msgpack

from datago_gpu.feeder import arena
from datago_gpu.feeder.decoding.memory_plan import PROCESS, Plan, Result

__all__ = ["DecodersGone", "Pool"]

_LARGEST_RESULT = 256 * 1024


class DecodersGone(Exception):
    """Says that all decode processes have ended."""


class Pool:
    """Lives as long as a Loader's run, and is connected to the decode processes of one feeder after the other.

    For one thread; any thread may call `wake`. Raises OSError or FeederError if the memory cannot be made.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.descriptor = arena.create_sparse(plan.total)
        """Of the memory's file."""
        try:
            self.memory = mmap.mmap(self.descriptor, plan.total)
            """Freed with its last view."""
        except BaseException:
            os.close(self.descriptor)
            raise
        self.closing: list[Callable[[], None]] = []
        """Called by `close`, to let go of views of the memory."""
        self._decoder = msgpack.Decoder(Result)
        self._tasks = -1
        self._results: socket.socket | None = None
        self._cpu_before_s = 0.0
        self._is_awake = False
        """Whether `wake` was called."""

    def connect(self, lent: contextlib.ExitStack) -> tuple[int, int, int]:
        """Makes the descriptors of new decode processes, which `lent` closes here: of tasks, results and memory.

        All decode processes must have ended.
        """
        self._cpu_before_s = self.cpu_s
        self._disconnect()
        self.memory[: self.plan.jobs_at] = bytes(self.plan.jobs_at)
        tasks, self._tasks = os.pipe()
        lent.callback(os.close, tasks)
        os.set_blocking(self._tasks, False)  # processes that wait to send a result take no tasks
        self._results, results = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lent.enter_context(results)
        if self._is_awake:
            self.wake()
        return tasks, results.fileno(), self.descriptor

    def send(self, tasks: bytes) -> bool:
        """Queues tasks for the decode processes. Returns False if there is no room; a result comes before there is.

        Does nothing if the processes have ended: `receive` says so.
        """
        try:
            os.write(self._tasks, tasks)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def receive(self) -> Result:
        """Waits for the next result. Raises DecodersGone once all decode processes have ended, and after `wake`."""
        with contextlib.suppress(OSError):
            if self._results and (message := self._results.recv(_LARGEST_RESULT)):
                return self._decoder.decode(message)
        raise DecodersGone

    def wait_for_end(self) -> None:
        """Waits until all decode processes have ended and write to the memory no more."""
        with contextlib.suppress(DecodersGone):
            while True:
                self.receive()

    def wake(self) -> None:
        """Wakes `receive`, for ever."""
        self._is_awake = True
        with contextlib.suppress(OSError):
            if self._results:
                self._results.shutdown(socket.SHUT_RDWR)

    @property
    def pids(self) -> list[int]:
        """Returns the ids of the decode processes that have started; none after `close`."""
        return [pid for pid, _ in self._processes() if pid]

    @property
    def cpu_s(self) -> float:
        """Returns the CPU time of all decode processes so far, in seconds."""
        return self._cpu_before_s + sum(seconds for _, seconds in self._processes())

    def close(self) -> None:
        """Closes the descriptors. The memory is freed with its last view. May be called twice."""
        self._disconnect()
        if self.descriptor < 0:
            return
        self._cpu_before_s = self.cpu_s
        while self.closing:
            self.closing.pop()()
        os.close(self.descriptor)
        self.descriptor = -1
        with contextlib.suppress(BufferError):  # a view of the memory still exists
            self.memory.close()

    def _processes(self) -> list[tuple[int, float]]:
        at = map(self.plan.process_at, range(self.plan.processes if self.descriptor >= 0 else 0))
        try:
            return [PROCESS.unpack_from(self.memory, each) for each in at]
        except ValueError:  # another thread has closed the memory meanwhile
            return []

    def _disconnect(self) -> None:
        if self._results:
            self._results.close()
        if self._tasks >= 0:
            os.close(self._tasks)
            self._tasks = -1
