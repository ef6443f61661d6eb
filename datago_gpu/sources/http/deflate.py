"""Undoes Content-Encoding "deflate" of a body on its way to a sink. Its bytes do not tell it, as those of gzip do."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

from datago_gpu.sources.http.failure import Unreadable

__all__ = ["Deflated"]

_PIECE_BYTES = 256 * 1024
_ZLIB_METHOD, _ZLIB_CHECK = 8, 31


class Deflated:
    """Called with the blocks of a body, in order; gives what they hold to `sink`, in pieces of a bounded size.

    Takes both forms that servers send: with zlib's header, as the standard has it, and without.
    """

    def __init__(self, sink: Callable[[bytes], Awaitable[None]]) -> None:
        self._sink = sink
        self._head = b""
        self._stream: zlib._Decompress | None = None

    async def __call__(self, block: bytes) -> None:
        """Raises Unreadable, and what the sink raises."""
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
            if piece is None:  # out here, so that no foreign error hangs on it
                raise Unreadable("encoding", "the compressed body (deflate) is damaged")
            block = self._stream.unconsumed_tail
            if piece:
                await self._sink(piece)

    def end(self) -> None:
        """All has come. Raises Unreadable where that is not all of the compressed data."""
        if self._stream is None or not self._stream.eof:
            raise Unreadable("cut-short", "the compressed body (deflate) ends early")


def _is_zlib(head: bytes) -> bool:
    return head[0] & 0x0F == _ZLIB_METHOD and int.from_bytes(head[:2], "big") % _ZLIB_CHECK == 0
