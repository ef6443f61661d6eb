"""A small HTTP server that misbehaves as told, on real sockets of a free port, in a thread of its own.

    with MisbehavingServer() as server:
        server.script("/a.jpg", Answer(503), Answer(200, body))     # the last answer is repeated
        server.route("/api/images/", lambda request: json_answer({"results": [], "next": None}))
        ... server.url + "/a.jpg" ...
        assert server.count("/a.jpg") == 2

Paths are told apart without their query. Each request is recorded in `server.requests`. Nothing here needs `sleep` in a
test: a stalled answer holds until the client goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.connections import ThreadedServer

_BLOCK = 64 * 1024
_GONE = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass(frozen=True)
class Request:
    """method, path and query as sent; headers by lower-case name; connection: number of the TCP connection, from 1."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    connection: int

    @property
    def parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Answer:
    """What to send for one request, and where to go wrong.

    length: the Content-Length to claim instead of the true one; -1 sends none and closes at the end.
    chunked: no Content-Length, but chunks of up to 64 KiB. ranges: honour Range and If-Range.
    cut_after, stall_after, reset_after: bytes of the body after which to close, fall silent, or reset (RST).
    silent: not even headers are sent. drop: the connection is closed in place of an answer.
    delay_s: before the first byte. hold: an event to wait for before the first byte.
    close: close afterwards without having said so, as a server that recycles its workers does.
    raw: bytes to send in place of everything.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    chunked: bool = False
    ranges: bool = False
    cut_after: int | None = None
    stall_after: int | None = None
    reset_after: int | None = None
    silent: bool = False
    drop: bool = False
    delay_s: float = 0.0
    hold: threading.Event | None = None
    close: bool = False
    raw: bytes | None = None


def json_answer(value: Any, status: int = 200, **more: Any) -> Answer:
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return Answer(status, json.dumps(value).encode(), headers, **more)


class MisbehavingServer(ThreadedServer):
    """Answers as told. See `ThreadedServer`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(host, port, tls=tls)
        self.requests: list[Request] = []
        self.connections = 0
        self.asked = threading.Event()
        """Set once the first request has come."""
        self.closed_by_client = threading.Event()
        """Set whenever a client has gone away in the middle of an answer."""
        self._answers: dict[str, Callable[[Request], Answer]] = {}

    def script(self, path: str, *answers: Answer) -> str:
        """Answer requests for `path` with these in turn, then with the last one for ever. Returns the URL."""
        left = list(answers)
        return self.route(path, lambda _request: left.pop(0) if len(left) > 1 else left[0])

    def route(self, path: str, answer: Callable[[Request], Answer]) -> str:
        """Answer requests for `path` with what the function returns. Returns the URL."""
        self._answers[path] = answer
        return self.url + path

    def count(self, path: str) -> int:
        return sum(request.path == path for request in self.requests)

    def queries(self, path: str) -> list[dict[str, str]]:
        return [request.parameters for request in self.requests if request.path == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        with contextlib.suppress(*_GONE):
            while (request := await _read_request(reader, number)) is not None:
                self.requests.append(request)
                self.asked.set()
                answer = self._answers.get(request.path, lambda _request: Answer(404, b"no such thing"))(request)
                try:
                    stays_open = await self._send(answer, request, reader, writer)
                except ConnectionError:
                    self.closed_by_client.set()
                    break
                if not stays_open or request.headers.get("connection", "").lower() == "close":
                    break

    async def _send(
        self, answer: Answer, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Returns whether the connection stays open."""
        if answer.hold is not None:
            await asyncio.to_thread(answer.hold.wait, 30)
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if answer.drop:
            return False
        if answer.silent:
            return await self._fall_silent(reader)
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            return False
        status, headers, body = _with_range(answer, request)
        writer.write(_head(answer, status, headers, body))
        stops = [stop for stop in (answer.cut_after, answer.stall_after, answer.reset_after) if stop is not None]
        await _send_body(writer, body[: min(stops, default=len(body))], answer.chunked)
        if answer.stall_after is not None:
            return await self._fall_silent(reader)
        if answer.reset_after is not None:
            _reset(writer)
            return False
        if answer.cut_after is not None:
            return False
        if answer.chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return not answer.close and answer.length != -1

    async def _fall_silent(self, reader: asyncio.StreamReader) -> bool:
        await reader.read(1)
        self.closed_by_client.set()
        return False


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Request | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _version = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    split = urlsplit(target)
    return Request(method, split.path, split.query, headers, connection)


def _with_range(answer: Answer, request: Request) -> tuple[int, dict[str, str], bytes]:
    wanted = request.headers.get("range", "")
    if answer.ranges and request.headers.get("if-none-match", "-") == answer.headers.get("ETag"):
        return 304, answer.headers, b""
    condition = request.headers.get("if-range")
    same = condition is None or condition in (answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
    if not (answer.ranges and wanted.startswith("bytes=") and same):
        return answer.status, answer.headers, answer.body
    start, _, last = wanted.removeprefix("bytes=").partition("-")
    begin, total = int(start), len(answer.body)
    end = min(total, int(last) + 1) if last else total
    if begin >= total:
        return 416, {"Content-Range": f"bytes */{total}"}, b""
    return 206, {**answer.headers, "Content-Range": f"bytes {begin}-{end - 1}/{total}"}, answer.body[begin:end]


def _head(answer: Answer, status: int, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} Said So", *(f"{name}: {value}" for name, value in headers.items())]
    if answer.chunked:
        lines.append("Transfer-Encoding: chunked")
    elif answer.length != -1:
        lines.append(f"Content-Length: {len(body) if answer.length is None else answer.length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _send_body(writer: asyncio.StreamWriter, body: bytes, chunked: bool) -> None:
    for start in range(0, len(body), _BLOCK):
        block = body[start : start + _BLOCK]
        writer.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
        await writer.drain()
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
