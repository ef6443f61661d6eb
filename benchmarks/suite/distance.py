"""Puts a server at a distance: behind latency and loss of packets, or on a core of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.common import NotHere
from benchmarks.suite import wire

__all__ = ["HERE", "Route", "own_core", "route"]


@dataclass(frozen=True, slots=True)
class Route:
    """How a client gets to a server."""

    client: tuple[str, ...] = ()
    """What to put before a client's command."""
    server: tuple[str, ...] = ()
    """What to put before the server's."""
    host: str = "127.0.0.1"
    """Where the server listens."""
    note: str = ""
    """What the report says of it."""
    apart: bool = False
    """Clients and server take no cores from each other."""


HERE = Route()


def own_core() -> Route:
    """Returns a way to servers on a core of their own, as if on another machine. Raises NotHere."""
    *clients, server = map(str, sorted(os.sched_getaffinity(0)))
    if not clients or not shutil.which("taskset"):
        raise NotHere("it takes two cores, and taskset")
    return Route(
        ("taskset", "-c", ",".join(clients)), ("taskset", "-c", server), note=", the server on another core", apart=True
    )


@contextmanager
def route(delay_ms: int, loss: float) -> Iterator[Route]:
    """Opens a way that takes so long, there and back, and loses such a share of the packets. Raises NotHere.

    wire.py carries the packets between two network namespaces, so the machine's own devices are left alone. A user who
    is not root gets the namespaces within a user namespace.
    """
    root = os.geteuid() == 0
    enter = ["nsenter", *([] if root else ["--user", "--preserve-credentials"]), "--net", "--target"]
    alone = ["unshare", *([] if root else ["--user", "--map-root-user"]), "--net"]
    missing = [tool for tool in ("ip", "nsenter", "unshare") if not shutil.which(tool)]
    if missing:
        raise NotHere(f"latency and loss need the commands {', '.join(missing)}")
    command = [*alone, sys.executable, wire.__file__, str(delay_ms), str(loss)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        namespaces = process.stdout.readline().split()
        if not namespaces:
            said = process.stderr.read().strip().splitlines() or ["it ended without a word"]
            raise NotHere(f"latency and loss need /dev/net/tun, and root or user namespaces: {said[-1]}")
        client, server = ((*enter, pid) for pid in namespaces)
        note = f" (by a wire in user space, packets of {wire.MTU:,} bytes)"
        try:
            yield Route(client, server, wire.FAR_ADDRESS, note)
        finally:
            process.stdin.close()  # that ends the wire, and with it the namespaces
