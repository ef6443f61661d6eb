"""Payload files behind signed URLs, as an object store gives them.

A payload is addressed by its key (`images/ID/original.jpg`), looked up in the index: no part of a URL ever becomes a
part of a path, so nothing outside the folder can be named. What the store refuses, it refuses in XML.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from xml.sax.saxutils import escape

from aiohttp import web

from datago_gpu.server.records import IMAGE_TYPES, OVERLOADED, open_regular

PREFIX = "/media/"

_CHUNK_BYTES = 1 << 20
_SIGNED_QUERY = re.compile(r"expires=(\d{1,12})&signature=([0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class UrlSigner:
    """Makes and checks the query that lets a payload be fetched for `ttl_s` seconds without the API key.

    Its secret is made with it, so URLs do not outlive the server. `clock` gives the time in seconds since 1970."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._ttl_s, self._clock = ttl_s, clock
        self._secret = secrets.token_bytes(32)

    def expiry(self) -> int:
        """When a URL made now runs out, in seconds since 1970."""
        return int(self._clock() + self._ttl_s)

    def path(self, key: str, expires: int) -> str:
        """Path and query of the payload's URL."""
        path = PREFIX + key
        return f"{path}?expires={expires}&signature={self._signature(path, expires)}"

    def _signature(self, path: str, expires: int) -> str:
        return hmac.digest(self._secret, f"{path}\n{expires}".encode("ascii", "replace"), "sha256").hex()

    def check(self, path: str, query: str) -> None:
        """Raises StoreError unless this query was made for this path, both as sent, and has not run out."""
        if not query:
            raise StoreError(403, "AccessDenied", "Access Denied")
        parts = _SIGNED_QUERY.fullmatch(query)
        if not parts or not hmac.compare_digest(parts[2], self._signature(path, int(parts[1]))):
            raise StoreError(
                403, "SignatureDoesNotMatch", "The request signature we calculated does not match the one you provided."
            )
        if self._clock() >= int(parts[1]):
            raise StoreError(403, "AccessDenied", "Request has expired")


class StoreError(Exception):
    """A refusal by the store: a status, S3's code for it and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def response(self) -> web.Response:
        """The refusal in S3's form."""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message></Error>"
        )
        return web.Response(status=self.status, text=body, content_type="application/xml")


class MediaStore:
    """Answers the requests for payloads.

    files: key -> absolute path without symbolic links. strict: refuse an Authorization header next to a signature, as a
    store on its own origin does."""

    def __init__(self, files: Mapping[str, str], signer: UrlSigner, *, strict: bool) -> None:
        self._files, self._signer, self._strict = files, signer, strict

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD of a payload, with Range, If-Range and If-None-Match."""
        try:
            payload = self._open(request)
        except StoreError as error:
            return error.response()
        try:
            return await _answer(request, payload)
        finally:
            os.close(payload.descriptor)

    def _open(self, request: web.Request) -> _Payload:
        if request.method not in ("GET", "HEAD"):
            raise StoreError(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        path, _, query = request.raw_path.partition("?")
        if self._strict and "Authorization" in request.headers and query:
            raise StoreError(400, "InvalidArgument", "Only one auth mechanism allowed")
        self._signer.check(path, query)
        file = self._files.get(path.removeprefix(PREFIX))
        if file is None:
            raise _no_such_key()
        return _open_payload(file)


def _no_such_key() -> StoreError:
    return StoreError(404, "NoSuchKey", "The specified key does not exist.")


@dataclass(frozen=True, slots=True)
class _Payload:
    descriptor: int
    size: int
    etag: str
    modified: str
    content_type: str


def _open_payload(path: str) -> _Payload:
    try:
        descriptor = open_regular(path)
    except OSError as error:
        if error.errno in OVERLOADED:
            raise StoreError(503, "SlowDown", "Please reduce your request rate.") from error
        raise _no_such_key() from error
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise _no_such_key()
    return _Payload(
        descriptor=descriptor,
        size=state.st_size,
        etag=f'"{state.st_mtime_ns:x}-{state.st_size:x}"',
        modified=formatdate(state.st_mtime, usegmt=True),
        content_type=IMAGE_TYPES.get(os.path.splitext(path)[1].lower(), "application/octet-stream"),
    )


async def _answer(request: web.Request, payload: _Payload) -> web.StreamResponse:
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": payload.content_type,
        "ETag": payload.etag,
        "Last-Modified": payload.modified,
        "X-Content-Type-Options": "nosniff",
    }
    if _names_tag(request.headers.get("If-None-Match", ""), payload.etag):
        return web.Response(status=304, headers=headers)
    chosen = _chosen_range(request, payload)
    if chosen is None:
        return await _send(request, payload, 200, headers, 0, payload.size)
    start, stop = chosen
    if start >= stop:
        refusal = StoreError(416, "InvalidRange", "The requested range is not satisfiable").response()
        refusal.headers["Content-Range"] = f"bytes */{payload.size}"
        return refusal
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{payload.size}"
    return await _send(request, payload, 206, headers, start, stop)


def _at_once(descriptor: int, size: int, start: int) -> bytearray:
    """Of these bytes of a file, the first ones, as many as are in memory: nothing waits for a disk.

    A thread that could wait costs 120 us a payload, as much as all the rest. Opening a file may wait, as in nginx."""
    buffer = bytearray(size)
    try:
        del buffer[os.preadv(descriptor, [buffer], start, os.RWF_NOWAIT) :]
    except (OSError, AttributeError):  # none of them is, this file system cannot tell, or this system has no such flag
        buffer.clear()
    return buffer


def _names_tag(header: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or "*" in tags


def _chosen_range(request: web.Request, payload: _Payload) -> tuple[int, int] | None:
    """Start and stop of the one range asked for; None for the whole file; empty when the file has no such bytes.

    What is not one well-formed range is ignored, as is a range of another state of the file (If-Range)."""
    parts = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if not parts or parts[0] == "bytes=-":
        return None
    if request.headers.get("If-Range", payload.etag) not in (payload.etag, payload.modified):
        return None
    first, last = parts.groups()
    if not first:
        return max(0, payload.size - int(last)), payload.size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, payload.size) if last else payload.size


async def _send(
    request: web.Request, payload: _Payload, status: int, headers: dict[str, str], start: int, stop: int
) -> web.StreamResponse:
    chunk: bytes | bytearray = b""
    if request.method != "HEAD":
        chunk = _at_once(payload.descriptor, min(_CHUNK_BYTES, stop - start), start)
        if len(chunk) == stop - start:
            return web.Response(status=status, headers=headers, body=chunk)
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = stop - start
    await response.prepare(request)
    while start < stop and request.method != "HEAD":
        chunk = chunk or await asyncio.to_thread(os.pread, payload.descriptor, min(_CHUNK_BYTES, stop - start), start)
        if not chunk:  # The file was cut short meanwhile; a closed connection tells the client so.
            response.force_close()
            raise ConnectionResetError("the file shrank while it was sent")
        await response.write(chunk)
        start += len(chunk)
        chunk = b""
    await response.write_eof()
    return response
