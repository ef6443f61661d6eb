"""A forward proxy on loopback, in a thread of its own: plain requests and CONNECT, names of its own, faults as told.

with ForwardProxy({"data.invalid": server.port}) as proxy:
    ... HTTP_PROXY=proxy.url ... http://data.invalid/a.jpg ...
    assert proxy.asked == ["GET http://data.invalid/a.jpg"]
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from tests.support.connections import ThreadedServer

_GONE = (ConnectionError, asyncio.IncompleteReadError, OSError)


class ForwardProxy(ThreadedServer):
    """See `ThreadedServer`.

    hosts: the port on loopback at which the proxy finds a host; every other host is refused. login: NAME:PASSWORD that
    it wants, by this scheme. answer: the status of every answer of its own in place of what was asked for. silent: it
    takes requests and says nothing. slow_s: the pause before each piece of an answer goes on. fault: is asked for each
    request what goes wrong: "busy" answers 503, "drop" closes before an answer, "cut" after the first bytes of one; ""
    nothing.
    """

    def __init__(
        self,
        hosts: Mapping[str, int] | None = None,
        *,
        login: str = "",
        scheme: str = "Basic",
        answer: int = 0,
        silent: bool = False,
        slow_s: float = 0.0,
        fault: Callable[[], str] = str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__("127.0.0.1", tls=tls)
        self.hosts, self.login, self.answer, self.silent, self.slow_s = dict(hosts or {}), login, answer, silent, slow_s
        self._fault, self._scheme = fault, scheme
        self.asked: list[str] = []
        """First lines of all requests, less the version."""
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._request(reader, writer):
                pass
        except _GONE:
            pass
        finally:
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Returns whether the connection stays open for another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        self.asked.append(f"{method} {target}")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        proof = f"Basic {base64.b64encode(self.login.encode()).decode()}"
        if self.silent:
            await reader.read(1)
            return False
        fault = self._fault()
        if fault == "drop":
            return False
        if self.answer or fault == "busy":
            return await _say(writer, self.answer or 503)
        if self.login and headers.get("proxy-authorization") != proof:
            return await _say(writer, 407, self._scheme)
        split = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = self.hosts.get(split.hostname or "")
        if port is None:
            return await _say(writer, 503 if method == "CONNECT" else 502)
        to_server = await asyncio.open_connection("127.0.0.1", port)
        ways = [self._flow(to_server[0], writer, self.slow_s, 5000 if fault == "cut" else 1 << 62)]
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ways.append(self._flow(reader, to_server[1], 0.0, 1 << 62))
        else:
            path = f"{split.path}?{split.query}" if split.query else split.path
            kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
            to_server[1].write(
                "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode("latin-1")
            )
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_server[1].transport.abort()  # first: what is awaited below may be cancelled
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(*_GONE):
                await writer.drain()
                writer.close()
        return False

    @staticmethod
    async def _flow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause_s: float, most: int) -> None:
        """Bytes go from one to the other until that has no more, or so many have gone."""
        with contextlib.suppress(*_GONE):
            while most > 0 and (block := await reader.read(min(most, 16 * 1024))):
                if pause_s:
                    await asyncio.sleep(pause_s)
                writer.write(block)
                await writer.drain()
                most -= len(block)


async def _say(writer: asyncio.StreamWriter, status: int, scheme: str = "Basic") -> bool:
    body = b"<html>the proxy says no</html>"
    head = f"HTTP/1.1 {status} Said The Proxy\r\nContent-Length: {len(body)}\r\nProxy-Authenticate: {scheme}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return True
