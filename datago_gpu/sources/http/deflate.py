"""Decompresses a body with Content-Encoding "deflate" on its way to a sink. Its bytes, unlike gzip's, do not show
it."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

from datago_gpu.sources.http.failure import HttpFailure

__all__ = ["Deflated"]

_PIECE_BYTES = 256 * 1024
_ZLIB_METHOD, _ZLIB_CHECK = 8, 31


class Deflated:
    """Decompresses the blocks of a body, in order, and passes the result to `sink` in pieces of limited size.

    Accepts both forms that servers send: with zlib's header, as in the standard, and without.
    """

    def __init__(self, sink: Callable[[bytes], Awaitable[None]]) -> None:
        self._sink = sink
        self._head = b""
        self._stream: zlib._Decompress | None = None

    async def __call__(self, block: bytes) -> None:
        """Decompresses one block. Raises HttpFailure, and errors of the sink."""
        if self._stream is None:
            self._head = block = self._head + block
            if len(block) < 2:
                return
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if _is_zlib(block) else -zlib.MAX_WBITS)
        while block and not self._stream.eof:
            try:
                piece = self._stream.decompress(block, _PIECE_BYTES)
            except zlib.error:
                piece = None
            if piece is None:  # raised outside `except`, so that no foreign error is its context
                raise HttpFailure("encoding", "the compressed body (deflate) is damaged")
            block = self._stream.unconsumed_tail
            if piece:
                await self._sink(piece)

    def end(self) -> None:
        """Ends the body. Raises HttpFailure if the compressed data is incomplete."""
        if self._stream is None or not self._stream.eof:
            raise HttpFailure("cut-short", "the compressed body (deflate) ends early")


def _is_zlib(head: bytes) -> bool:
    return head[0] & 0x0F == _ZLIB_METHOD and int.from_bytes(head[:2], "big") % _ZLIB_CHECK == 0
