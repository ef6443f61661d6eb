"""Asks for a range of the bytes of a body, and reads the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from aiohttp import ClientResponse

from datago_gpu.sources.http.body import PLAIN, another_part, begin_and_total, check_encoding, next_piece
from datago_gpu.sources.http.excerpt import Excerpt
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.units import MiB

__all__ = ["RangeBody", "tag_of"]

_MOST_BEFORE = 8 * MiB
"""The most bytes before `begin` that are read from a server that does not support ranges."""
_NOTHING = re.compile(r"bytes \*/(\d+)")


class RangeBody:
    """Asks for the bytes from `begin` up to `end`. If the server sends the whole body instead, reads up to `end` and no
    further.

    tag: of an earlier excerpt of the same body; another version is refused. known: a version that need not be sent.
    """

    def __init__(self, begin: int, end: int, tag: str = "", known: str = "") -> None:
        self._begin, self._end, self._tag, self._known = begin, end, tag, known

    def request_headers(self, headers: Mapping[str, str] | None) -> Mapping[str, str]:
        """Returns `headers`, and headers that ask for the range."""
        asked = {**(headers or {}), "Range": f"bytes={self._begin}-{self._end - 1}"}
        if self._known:
            asked["If-None-Match" if self._known.startswith(('"', "W/")) else "If-Modified-Since"] = self._known
        return asked

    async def read(self, response: ClientResponse, progress: Callable[[], None]) -> Excerpt | None:
        """Returns the excerpt; None if the body still has the known version. Raises HttpFailure, or errors of the
        transport. The status must be 200, 206, 304 or 416."""
        headers, tag = response.headers, tag_of(response.headers)
        if response.status == 304:
            return None
        if self._tag and tag != self._tag:
            raise HttpFailure("changed", "the file was replaced while it was read")
        if response.status == 416:
            return self._beyond(headers, tag)
        check_encoding(headers.get("Content-Encoding", ""), PLAIN)
        if response.status == 206:
            return Excerpt(*await self._read_part(response, progress), tag)
        return Excerpt(*await self._read_whole(response, progress), tag)

    async def _read_part(self, response: ClientResponse, progress: Callable[[], None]) -> tuple[bytes, int | None]:
        """Reads an answer that begins at `begin`. Returns the excerpt, and the size of the whole body."""
        begin, total = begin_and_total(response.headers)
        if begin != self._begin:
            raise another_part()
        content = await _first_bytes(response, self._end - self._begin, progress)
        end = self._end if total is None else min(self._end, total)
        if len(content) < end - self._begin:
            detail = f"{len(content)} of {end - self._begin} bytes arrived"
            raise HttpFailure("cut-short", detail, transient=True)
        return content, total

    async def _read_whole(self, response: ClientResponse, progress: Callable[[], None]) -> tuple[bytes, int | None]:
        """Reads an answer that begins at the first byte. Returns the excerpt, and the size of the whole body."""
        if self._begin > _MOST_BEFORE:
            detail = f"the server only sends whole files: it ignores a request for bytes from {self._begin} on (Range)"
            raise HttpFailure("no-ranges", detail)
        total = response.content_length
        content = await _first_bytes(response, self._end, progress)
        if total is not None and len(content) < min(self._end, total):
            raise HttpFailure("cut-short", f"{len(content)} of {total} bytes arrived", transient=True)
        if total is None and len(content) < self._end:
            total = len(content)
        return content[self._begin :], total

    def _beyond(self, headers: Mapping[str, str], tag: str) -> Excerpt:
        """Returns the empty excerpt that lies behind the end of the body."""
        match = _NOTHING.fullmatch(headers.get("Content-Range", ""))
        return Excerpt(b"", int(match[1]) if match else None if self._begin else 0, tag)


async def _first_bytes(response: ClientResponse, most: int, progress: Callable[[], None]) -> bytes:
    content = bytearray()
    while len(content) < most and (block := await next_piece(response.content)):
        progress()
        content += block
    return bytes(content[:most])


def tag_of(headers: Mapping[str, str]) -> str:
    """Returns what identifies the version of a body; "" if nothing does."""
    return headers.get("ETag", "") or headers.get("Last-Modified", "")
