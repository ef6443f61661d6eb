"""Puts a server at a distance: latency and loss by the kernel's netem, or by what stands in for it here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.wire import FAR_ADDRESS, MTU

__all__ = ["HERE", "NotHere", "Route", "own_core", "relay", "route"]

LOOPBACK = "127.0.0.1"


class NotHere(Exception):
    """What this machine lacks or does not allow."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a client gets to a server."""

    client: tuple[str, ...] = ()
    """What to put before a client's command."""
    server: tuple[str, ...] = ()
    """What to put before the server's."""
    host: str = LOOPBACK
    """Where the server listens."""
    note: str = ""
    """What the report says of it."""
    apart: bool = False
    """Clients and server take no cores from each other."""


HERE = Route()


def own_core() -> Route:
    """Servers on a core of their own, clients on the others, as if on two machines. Raises NotHere."""
    *clients, server = map(str, sorted(os.sched_getaffinity(0)))
    if not clients or not shutil.which("taskset"):
        raise NotHere("it takes two cores, and taskset")
    return Route(
        ("taskset", "-c", ",".join(clients)), ("taskset", "-c", server), note=", the server on another core", apart=True
    )


@contextmanager
def route(delay_ms: int, loss: float) -> Iterator[Route]:
    """A way that takes so long, there and back, and loses such a share of the packets.

    Within network namespaces of its own: the machine's own devices are left alone. By netem; where the kernel has none,
    losses are made by wire.py. Raises NotHere where that needs more rights, or where `relay` does as well.
    """
    with ExitStack() as stack:
        near = stack.enter_context(_namespace("near"))
        within = ("ip", "netns", "exec", near)
        _command("ip", "-netns", near, "link", "set", "lo", "up")
        try:
            _command(*within, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "limit", "100000",
                     "delay", f"{delay_ms / 2}ms", "loss", f"{loss:%}")  # fmt: skip
        except NotHere:
            if not loss:
                raise
            far = stack.enter_context(_namespace("far"))
            stack.enter_context(_wire(near, far, delay_ms, loss))
            note = f" (by a wire in user space, packets of {MTU:,} bytes)"
            yield Route(within, ("ip", "netns", "exec", far), FAR_ADDRESS, note)
        else:
            yield Route(within, within)


@contextmanager
def relay(port: int, delay_ms: int) -> Iterator[int]:
    """A port through which `port` is so far away: see relay.py."""
    with _program("relay.py", str(port), str(delay_ms)) as said:
        yield int(said)


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    name = f"datago-gpu-{os.getpid()}-{name}"
    _command("ip", "netns", "add", name)
    try:
        yield name
    finally:
        _command("ip", "netns", "del", name)


@contextmanager
def _wire(near: str, far: str, delay_ms: int, loss: float) -> Iterator[None]:
    with _program("wire.py", near, far, str(delay_ms), str(loss)) as said:
        if not said:
            raise NotHere("no netem in this kernel, and no TUN devices")
        yield


@contextmanager
def _program(name: str, *arguments: str) -> Iterator[str]:
    """A script of this folder, for as long as the block runs; the first line that it prints."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _command(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotHere(f"{words[0]} is not installed") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise NotHere(f"{' '.join(word for word in words if 'datago-gpu' not in word)}: {said[-1]}")
