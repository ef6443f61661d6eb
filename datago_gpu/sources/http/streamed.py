"""Streams a body that is too large for memory to a sink: knows where it stopped, and how to resume there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import ClientResponse, StreamReader

from datago_gpu.redact import clip_word
from datago_gpu.sources.http.body import asking_for_rest, next_piece, size_of_rest
from datago_gpu.sources.http.deadlines import Deadline
from datago_gpu.sources.http.deflate import Deflated
from datago_gpu.sources.http.failure import HttpFailure

__all__ = ["StreamedBody"]

_SEEN_BY_THEIR_BYTES = frozenset(("", "identity", "aws-chunked", "gzip", "x-gzip", "zstd"))
"""Content-Encodings that are passed on unchanged: the reader of a shard recognises them by the first bytes."""
_ADVANCE_BYTES = 1024 * 1024
"""If this many bytes arrive between two failures, the server counts as working: the count of tries restarts."""


class StreamedBody:
    """Streams one body over as many requests as needed. The sink gets each byte once, in order."""

    def __init__(self, sink: Callable[[bytes], Awaitable[None]], begun: Callable[[int | None], None] | None) -> None:
        """begun: see `HttpClient.stream`."""
        self._given_sink = self._sink = sink
        self._begun = begun
        self._deflated: Deflated | None = None
        self._headers: Mapping[str, str] = {}
        self._total: int | None = None
        self._ranges = True
        self._repeated = 0
        """Bytes at the start of the answer that the sink already has."""
        self._counted_at = 0
        self.size = 0
        """Bytes that the sink has."""

    def has_advanced(self) -> bool:
        """Returns whether many bytes have arrived since this last returned True."""
        if self.size < self._counted_at + _ADVANCE_BYTES:
            return False
        self._counted_at = self.size
        return True

    def restart(self) -> None:
        """Makes the next request ask for the whole body: the server cannot resume in the middle."""
        self._ranges = False

    def request_headers(self, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Returns `headers` and, if the server can identify the body, headers that ask for the rest of it."""
        asking = asking_for_rest(headers, self._headers, self.size) if self._ranges else None
        return headers if asking is None else asking

    def begin(self, response: ClientResponse) -> None:
        """Reads an answer's headers. Raises HttpFailure."""
        if response.status == 206:
            self._continue(response.headers)
        else:
            self._start_over(response)

    def _continue(self, headers: Mapping[str, str]) -> None:
        try:
            self._total = size_of_rest(headers, self._headers, self.size, self._total)
        except HttpFailure:
            self.restart()
            raise
        self._repeated = 0

    def _start_over(self, response: ClientResponse) -> None:
        """Starts at the first byte: skips the bytes that the sink has, if this is the same body."""
        headers, total = response.headers, response.content_length
        if self.size:
            known = [name for name in ("ETag", "Last-Modified") if name in self._headers]
            same = total == self._total and all(headers.get(name) == self._headers[name] for name in known)
            if not same or (total is None and not known):
                raise HttpFailure("changed", f"the body broke off after {self.size} bytes, and has changed since")
        if not self.size:
            self._take_encoding(headers.get("Content-Encoding", ""))
            if self._begun:
                self._begun(None if self._deflated else total)
        self._headers, self._total, self._repeated = headers, total, self.size

    def _take_encoding(self, given: str) -> None:
        """Raises HttpFailure if a body has an encoding that was not requested and cannot be decoded."""
        encodings = [each.strip().lower() for each in given.split(",")]
        self._deflated = Deflated(self._given_sink) if encodings == ["deflate"] else None
        self._sink = self._deflated or self._given_sink
        if self._deflated is None and not _SEEN_BY_THEIR_BYTES.issuperset(encodings):
            raise HttpFailure(
                "encoding",
                f"compressed as {clip_word(given)!r} (Content-Encoding), which was not requested; only gzip, deflate "
                "and zstd are supported: make the server send the file as it is",
            )

    async def read(self, content: StreamReader, deadline: Deadline) -> None:
        """Passes the body on to its end. Raises HttpFailure, or errors of the transport or the sink."""
        while block := await next_piece(content):
            deadline.progress()
            if self._repeated:
                known = min(self._repeated, len(block))
                self._repeated -= known
                block = block[known:]
            if block:
                self.size += len(block)
                deadline.paused = True
                await self._sink(block)
                deadline.paused = False
        if self._repeated or (self._total is not None and self.size != self._total):
            detail = f"{self.size - self._repeated} of {self._total} bytes arrived"
            raise HttpFailure("cut-short", detail, transient=self._total is None or self.size < self._total)
        if self._deflated is not None:
            self._deflated.end()
