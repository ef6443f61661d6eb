"""Knows which processes were forked from this one, and when they end: they share the pixels of delivered batches."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Protocol

__all__ = ["Fork", "register"]


class Fork:
    """A forked process, with all that are forked from it. It holds one end of a pipe, which closes with its end."""

    def __init__(self) -> None:
        self._alive = self.theirs = -1
        with contextlib.suppress(OSError):  # too many open files: it counts as alive for ever
            self._alive, self.theirs = os.pipe()
            os.set_blocking(self._alive, False)

    def is_over(self) -> bool:
        """Returns whether the process has ended, or runs another program."""
        try:
            return self._alive >= 0 and not os.read(self._alive, 1)
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Closes this process's end of the pipe."""
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1

    def __del__(self) -> None:
        self.close()


class _Registered(Protocol):
    def keep_for(self, fork: Fork) -> None: ...


_objects: weakref.WeakSet[_Registered] = weakref.WeakSet()
_thread = threading.local()


def register(each: _Registered) -> None:
    """Calls `keep_for` of this object whenever a process is about to be forked from this one."""
    _objects.add(each)


def _before() -> None:
    _thread.fork = None
    if objects := list(_objects):
        _thread.fork = Fork()
        for each in objects:
            each.keep_for(_thread.fork)


def _in_parent() -> None:
    fork, _thread.fork = _thread.fork, None
    if fork and fork.theirs >= 0:
        os.close(fork.theirs)


def _in_child() -> None:
    fork, _thread.fork = _thread.fork, None
    if fork:
        fork.close()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
