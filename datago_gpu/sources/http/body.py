"""Collects the body of one answer over several tries, never above its size limit and never accepted incomplete."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from email.utils import parsedate_to_datetime

from aiohttp import ClientResponse, StreamReader

from datago_gpu.redact import clip_word
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.inflate import inflate, join_pieces
from datago_gpu.sources.reference import Need

__all__ = [
    "PLAIN",
    "Body",
    "another_part",
    "asking_for_rest",
    "begin_and_total",
    "check_encoding",
    "next_piece",
    "size_of_rest",
]

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
PLAIN = frozenset(("", "identity", "aws-chunked"))
"""Content-Encodings of a body that is not compressed. S3 stores aws-chunked in an object's headers."""
_COMPRESSED = frozenset(("gzip", "x-gzip", "deflate"))


class Body:
    """Holds the received bytes of one body, and knows how to ask for the rest.

    max_bytes: the largest size, before and after decompression. compressed: whether the body may arrive compressed.
    """

    __slots__ = ("_blocks", "_encoding", "_granted", "_headers", "_max_bytes", "_total", "compressed", "size")

    def __init__(self, max_bytes: int, *, compressed: bool = False) -> None:
        self._max_bytes = max_bytes
        self.compressed = compressed
        self._blocks: list[bytes] = []
        self._headers: Mapping[str, str] = {}
        self._encoding = ""
        self._total: int | None = None
        self._granted = 0
        self.size = 0
        """Bytes received so far, as sent."""

    def restart(self) -> None:
        """Discards the received bytes."""
        self._blocks.clear()
        self.size = 0

    def request_headers(self, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Returns `headers` and, if a part of a recognisable body has arrived, headers that ask for the rest."""
        if not self.size:
            return headers
        asking = asking_for_rest(headers, self._headers, self.size)
        if asking is None:
            self.restart()
        return headers if asking is None else asking

    def begin(self, response: ClientResponse) -> int:
        """Reads an answer's headers. Returns the number of bytes that are already there. Raises HttpFailure."""
        headers = response.headers
        if response.status == 206:
            self._continue(headers)
        else:
            self.restart()
            self._headers = headers
            self._total = response.content_length
            self._encoding = headers.get("Content-Encoding", "")
        if self._total is not None and self._total > self._max_bytes:
            raise HttpFailure("too-large", f"a body of {self._total} bytes, at most {self._max_bytes} are allowed")
        check_encoding(self._encoding, PLAIN | _COMPRESSED if self.compressed else PLAIN)
        return self.size

    def _continue(self, headers: Mapping[str, str]) -> None:
        try:
            self._total = size_of_rest(headers, self._headers, self.size, self._total)
        except HttpFailure:
            self.restart()
            raise

    async def read(self, content: StreamReader, progress: Callable[[], None], need: Need | None = None) -> None:
        """Reads the body and calls `progress` for each piece. Raises HttpFailure, or the error of the transport.

        need: called before memory is allocated.
        """
        blocks = self._blocks
        if need and (self._total or 0) > self._granted:
            await self._ask(need, self._total or 0)
        while block := await next_piece(content):
            progress()
            blocks.append(block)
            self.size += len(block)
            if self.size > self._max_bytes:
                raise HttpFailure("too-large", f"a body of more than the {self._max_bytes} bytes that are allowed")
            if need and self.size > self._granted:
                await self._ask(need, min(2 * self.size, self._max_bytes))
        if self._total is not None and self.size != self._total:
            raise HttpFailure("cut-short", f"{self.size} of {self._total} bytes arrived", transient=True)

    async def _ask(self, need: Need, size: int) -> None:
        await need(size)
        self._granted = size

    async def content(self) -> bytes:
        """Returns the whole body, decompressed. Raises HttpFailure."""
        if self._encoding.lower() not in _COMPRESSED:
            return await join_pieces(self._blocks)
        blocks = self._blocks[:]
        self.restart()  # the next try starts over
        return await inflate(blocks, self._max_bytes)


async def next_piece(content: StreamReader) -> bytes:
    """Returns the next piece of a body; b"" at its end. If the connection breaks, raises its error after all received
    bytes.

    aiohttp alone raises at once and keeps unread bytes back: how much of a body arrives would depend on timing.
    """
    if content.is_eof():  # the body came together with the headers: no need to wait
        return content.read_nowait()
    try:
        return await content.readany()
    except Exception:
        if (error := content.exception()) is None:
            raise
        content.set_exception(None)  # type: ignore[arg-type]  # the only way to the unread bytes
        left = content.read_nowait()
        content.set_exception(error)
        if not left:
            raise
        return left


def asking_for_rest(headers: Mapping[str, str] | None, begun: Mapping[str, str], size: int) -> Mapping[str, str] | None:
    """Returns `headers` and headers that ask for a body from byte `size` on. None if that cannot be asked for.

    begun: the headers of the first answer. They must identify the body, so that no other body is appended.
    """
    validator = _strong_validator(begun) if size else ""
    if not validator or begun.get("Accept-Ranges") == "none":
        return None
    return {**(headers or {}), "Range": f"bytes={size}-", "If-Range": validator}


def size_of_rest(headers: Mapping[str, str], begun: Mapping[str, str], size: int, total: int | None) -> int | None:
    """Returns the size of the whole body by the headers of a partial answer, or None if unknown.

    Checks that the partial answer is the requested one: from byte `size` on, of the body that came with the headers
    `begun`, and `total` bytes long where that is known. Raises HttpFailure.
    """
    begin, whole = begin_and_total(headers)
    same = headers.get("ETag", "") in ("", begun.get("ETag", ""))
    if not (size and same and begin == size and total in (None, whole)):
        raise another_part()
    return whole


def begin_and_total(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Returns the first byte of a partial answer and the size of the whole body, by Content-Range; None if unknown."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        return None, None
    return int(match[1]), None if match[3] == "*" else int(match[3])


def another_part() -> HttpFailure:
    """Returns the failure of a partial answer that is not the requested one."""
    return HttpFailure("cut-short", "the server sent another part than the one requested", transient=True)


def check_encoding(encoding: str, accepted: Collection[str]) -> None:
    """Raises HttpFailure if a body has a Content-Encoding that is not among the accepted ones."""
    if encoding.lower() not in accepted:
        raise HttpFailure("encoding", f"compressed as {clip_word(encoding)!r}, which was not requested")


def _strong_validator(headers: Mapping[str, str]) -> str:
    """Returns what identifies a body exactly: a strong ETag, or a Last-Modified before the answer; else ""."""
    tag = headers.get("ETag", "")
    if tag:
        return "" if tag.startswith("W/") else tag
    changed = headers.get("Last-Modified", "")
    try:
        same_second = parsedate_to_datetime(headers["Date"]) <= parsedate_to_datetime(changed)
    except (KeyError, ValueError, TypeError):
        same_second = False
    return "" if same_second else changed
