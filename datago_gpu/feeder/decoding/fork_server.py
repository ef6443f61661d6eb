"""Forks the decode processes, watches them, and ends them.

The feeder calls `start_described` before it has threads. The fork server imports numpy and Pillow while the feeder
lists files, then forks the decode processes, which share these imports. The kernel kills each process when the process
above it ends, however that ends.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import socket
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

import msgspec

from datago_gpu.feeder.decoding.plan import BY_SIGNAL, Ends, Plan

if TYPE_CHECKING:
    from datago_gpu.feeder.decoding.worker import Worker

__all__ = ["ForkServer", "start_described"]

_PR_SET_PDEATHSIG = 1


class ForkServer:
    """The feeder's view of the fork server."""

    def __init__(self, pid: int, alive: int) -> None:
        self._pid = pid
        self.alive = alive
        """The end of a pipe that becomes readable when the fork server has ended."""

    def status(self) -> int:
        """Waits for the end of the fork server and returns its exit status."""
        return _waited(self._pid)

    def stop(self) -> None:
        """Ends the fork server and all decode processes, and waits for their end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        self.status()


def start_described(described: str, arena: int, foreign: Iterable[int]) -> ForkServer | None:
    """Starts the decode processes that a feeder's last argument describes; none if it is empty.

    From then on SIGTERM ends this process together with them.
    """
    if not described:
        return None
    server = _start(msgspec.json.decode(described, type=Ends), arena, foreign)
    signal.signal(signal.SIGTERM, lambda *_: _leave(server))
    return server


def _leave(server: ForkServer) -> NoReturn:
    server.stop()
    os._exit(0)


def _start(ends: Ends, arena: int, foreign: Iterable[int]) -> ForkServer:
    """Forks the fork server. This process must have one thread only, and loses `ends`.

    arena: the descriptor of the payloads. foreign: descriptors that only this process needs.
    """
    feeder, (alive, theirs) = os.getpid(), os.pipe()
    pid = os.fork()
    if pid:
        for descriptor in (ends.tasks, ends.results, ends.memory, theirs):
            os.close(descriptor)
        return ForkServer(pid, alive)
    try:
        _die_with(feeder)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for descriptor in (*foreign, alive):
            os.close(descriptor)
        status = _serve(ends.plan, ends.tasks, ends.results, ends.memory, arena)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _serve(plan: Plan, tasks: int, results: int, file: int, arena: int) -> int:
    """Forks the decode processes and waits until one of them ends. Returns the exit status of this process."""
    from datago_gpu.feeder.decoding.shared_allowance import SharedAllowance
    from datago_gpu.feeder.decoding.worker import Worker

    memory, payloads = mmap.mmap(file, plan.total), mmap.mmap(arena, 0, access=mmap.ACCESS_READ)
    allowance = SharedAllowance(plan.memory, plan.processes, file, memory)
    worker = Worker(plan, payloads, file, memory, allowance, tasks, socket.socket(fileno=results))
    gc.freeze()  # so that garbage collection writes to no shared page
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
        ended = f"by signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"with status {status}"
        print(f"a decode process has ended {ended}", file=sys.stderr)
    return status if status >= 0 else BY_SIGNAL - status


def _work(worker: Worker, number: int, server: int) -> NoReturn:
    """Runs a decode process to its end."""
    try:
        _die_with(server)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(ConnectionError):  # the trainer is gone
            worker.run(number)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)


def _die_with(parent: int) -> None:
    """Lets the kernel kill this process when its parent ends."""
    import ctypes  # the feeder does without

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
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
        _waited(pid)


def _waited(pid: int) -> int:
    """Waits for the end of a child process and returns its exit status; 0 if it is not known."""
    with contextlib.suppress(ChildProcessError):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 0
