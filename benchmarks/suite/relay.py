"""A TCP relay that holds every byte back for a while: latency where the kernel has no netem.

    python benchmarks/suite/relay.py TARGET_PORT DELAY_MS       prints its own port

Each direction waits half of the delay; the setting up of a connection waits once in full. Bandwidth is not limited,
nothing is lost. It takes CPU time of its own: about as much as the web server behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import cast


class End(asyncio.Protocol):
    """One end of a relayed connection: what comes here leaves at the other end, later."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of no common class
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay_s, self._pass_on, data)

    def connection_lost(self, _: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self.delay_s, self._close_other)

    def _pass_on(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)
        else:
            self._early.append(data)

    def join(self, other: End) -> None:
        """From now on `other` is the other end."""
        self.other, other.other = other, self
        for data in self._early:
            self._pass_on(data)
        self._early.clear()

    def _close_other(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.close()


async def serve(target: int, delay_s: float) -> None:
    """Relay until ended."""
    loop, joining = asyncio.get_running_loop(), set()

    async def join(near: End) -> None:
        await asyncio.sleep(delay_s)
        with contextlib.suppress(OSError):
            _, far = await loop.create_connection(lambda: End(delay_s / 2), "127.0.0.1", target)
            near.join(far)

    def accept() -> End:
        near = End(delay_s / 2)
        task = loop.create_task(join(near))
        joining.add(task)
        task.add_done_callback(joining.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
