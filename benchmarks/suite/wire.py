"""A wire between two network namespaces that holds packets back and loses some.

    unshare --net python benchmarks/suite/wire.py DELAY_MS LOSS      until its standard input ends

DELAY_MS is of a round trip, LOSS the share of the packets lost, in either direction. The near end is in the network
namespace of this process, the far end in one of its own; a line that names a process of each says that both are up. The
ends are TUN devices, and both speak the kernel's own TCP, so that what a loss costs is what it costs on a real path. A
packet takes about 10 us of Python.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time

__all__ = ["FAR_ADDRESS", "MTU"]

MTU = 1500
NEAR_ADDRESS, FAR_ADDRESS = "10.77.0.1", "10.77.0.2"
_SET_INTERFACE, _TUN, _NO_INFORMATION = 0x400454CA, 0x0001, 0x1000  # TUNSETIFF, IFF_TUN, IFF_NO_PI of linux/if_tun.h
_AT_ONCE = 64
"""Packets that are read from one end before it is the other's turn."""


def end(name: str, address: str, namespace: int) -> int:
    """Makes one end in the network namespace of a process; returns the descriptor to read and write packets with."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH22x", name.encode(), _TUN | _NO_INFORMATION))
    within = ("nsenter", "--net", "--target", str(namespace))
    for command in (
        ("ip", "link", "set", name, "netns", str(namespace)),
        (*within, "ip", "addr", "add", f"{address}/30", "dev", name),
        (*within, "ip", "link", "set", name, "mtu", str(MTU), "txqueuelen", "10000", "up"),
        (*within, "ip", "link", "set", "lo", "up"),
    ):
        subprocess.run(command, check=True)
    return device


def carry(near: int, far: int, delay_s: float, loss: float) -> None:
    """Carries packets between the two, until the standard input ends."""
    waiting: list[tuple[float, int, int, bytes]] = []
    chance, number = random.Random(0), 0
    other = {near: far, far: near}
    with selectors.DefaultSelector() as selector:
        for descriptor in (near, far, sys.stdin.fileno()):
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            ready = selector.select(max(waiting[0][0] - time.monotonic(), 0) if waiting else None)
            for key, _ in ready:
                if key.fd not in other:
                    return
                for packet in received(key.fd):
                    if chance.random() >= loss:
                        number += 1
                        heapq.heappush(waiting, (time.monotonic() + delay_s, number, other[key.fd], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, descriptor, packet = heapq.heappop(waiting)
                os.write(descriptor, packet)


def received(device: int) -> list[bytes]:
    """Returns what has come from one end by now."""
    packets: list[bytes] = []
    try:
        while len(packets) < _AT_ONCE:
            packets.append(os.read(device, MTU))
    except BlockingIOError:
        pass
    return packets


def main() -> None:
    delay_ms, loss = map(float, sys.argv[1:])
    hold = ["unshare", "--net", "sh", "-c", "echo; exec cat"]  # it ends with the pipe that it reads from
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as far_side:
        assert far_side.stdin is not None
        assert far_side.stdout is not None
        far_side.stdout.readline()
        near = end("datago-near", NEAR_ADDRESS, os.getpid())
        far = end("datago-far", FAR_ADDRESS, far_side.pid)
        print(os.getpid(), far_side.pid, flush=True)
        carry(near, far, delay_ms / 2000, loss)
        far_side.stdin.close()


if __name__ == "__main__":
    main()
