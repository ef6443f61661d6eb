"""A server in a process of its own, which is told what to do line by line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["child"]


@contextmanager
def child(module: str, *arguments: object) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Runs a module; yields the first line that it prints, and a function that sends a line and returns the answer.

    The module ends with its standard input.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        incoming, outgoing = process.stdin, process.stdout

        def ask(line: str) -> str:
            incoming.write(line + "\n")
            incoming.flush()
            return outgoing.readline()

        try:
            yield outgoing.readline().strip(), ask
        finally:
            process.stdin.close()
