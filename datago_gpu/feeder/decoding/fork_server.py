"""Forks the decode processes, watches them, and ends them.

The feeder calls `start` before it has threads, and before it imports anything: so the fork server imports numpy and
Pillow, the longest part of a run's start, while the feeder imports its own modules and lists files. Then it forks the
decode processes, which share these imports. The kernel kills each process when the process above it ends, however that
ends.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from datago_gpu.feeder.decoding.worker import Worker

__all__ = ["BY_SIGNAL", "ForkServer", "describe_exit", "die_with", "start"]

BY_SIGNAL = 128
"""A feeder whose decode process was ended by a signal ends with 128 and the number of the signal, as in shells."""

_PR_SET_PDEATHSIG = 1


def describe_exit(status: int) -> str:
    """Says how a process ended, by its exit status as `subprocess` gives it."""
    return f"by signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"with status {status}"


class ForkServer:
    """The feeder's view of the fork server."""

    def __init__(self, pid: int, alive: int) -> None:
        self._pid = pid
        self.alive = alive
        """The end of a pipe that becomes readable when the fork server has ended."""

    def status(self) -> int:
        """Waits for the end of the fork server and returns its exit status."""
        return _wait_for(self._pid)

    def stop(self) -> None:
        """Ends the fork server and all decode processes, and waits for their end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        self.status()


def start(plan: str, ends: Sequence[int], arena: int, foreign: Iterable[int]) -> ForkServer:
    """Forks the fork server. This process must have one thread only. From now on SIGTERM ends both.

    plan: a `Plan`, as JSON. ends: the descriptors of the tasks, the results and the memory; they are closed here.
    arena: the descriptor of the payloads. foreign: descriptors that only this process needs.
    """
    feeder, (alive, theirs) = os.getpid(), os.pipe()
    pid = os.fork()
    if pid:
        for descriptor in (*ends, theirs):
            os.close(descriptor)
        server = ForkServer(pid, alive)
        signal.signal(signal.SIGTERM, lambda *_: _leave(server))
        return server
    try:
        die_with(feeder)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for descriptor in (*foreign, alive):
            os.close(descriptor)
        tasks, results, memory = ends
        status = _serve(plan, tasks, results, memory, arena)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _leave(server: ForkServer) -> None:
    """Ends the fork server, then this process, by the signal that it got."""
    server.stop()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _serve(described: str, tasks: int, results: int, file: int, arena: int) -> int:
    """Forks the decode processes and waits until one of them ends. Returns the exit status of this process."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy would start threads for matrices, which decoding has none of
    import msgspec

    from datago_gpu.feeder.decoding.memory_plan import Plan
    from datago_gpu.feeder.decoding.shared_allowance import SharedAllowance
    from datago_gpu.feeder.decoding.worker import Worker

    plan = msgspec.json.decode(described, type=Plan)
    memory, payloads = mmap.mmap(file, plan.total), mmap.mmap(arena, 0, access=mmap.ACCESS_READ)
    allowance = SharedAllowance(plan.memory, plan.processes, file, memory)
    worker = Worker(plan, payloads, file, memory, allowance, tasks, socket.socket(fileno=results))
    gc.freeze()  # so that garbage collection writes to no shared page
    gc.enable()  # the feeder had disabled it for its imports
    server, children = os.getpid(), set[int]()
    signal.signal(signal.SIGTERM, lambda *_: _end(children))
    for number in range(plan.processes):
        children.add(pid := os.fork())
        if not pid:
            _work(worker, number, server)
    os.close(tasks)
    os.close(results)
    pid, code = os.wait()
    children.discard(pid)
    _kill(children)
    status = os.waitstatus_to_exitcode(code)
    if status:
        print(f"a decode process has ended {describe_exit(status)}", file=sys.stderr)
    return status if status >= 0 else BY_SIGNAL - status


def _work(worker: Worker, number: int, server: int) -> NoReturn:
    """Runs a decode process to its end."""
    try:
        die_with(server)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(ConnectionError):  # the trainer is gone
            worker.run(number)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)


def die_with(parent: int) -> None:
    """Lets the kernel kill this process when its parent ends, where the kernel can: Linux can."""
    import ctypes  # the feeder does without

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before the call
        os._exit(0)


def _end(children: set[int]) -> None:
    _kill(children)
    os._exit(0)


def _kill(children: set[int]) -> None:
    """Kills the processes and waits for their end."""
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in children:
        _wait_for(pid)


def _wait_for(pid: int) -> int:
    """Waits for the end of a child process and returns its exit status; 0 if it is not known."""
    with contextlib.suppress(ChildProcessError):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 0
