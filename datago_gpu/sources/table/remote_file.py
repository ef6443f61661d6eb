"""Reads a remote file by Range, for pyarrow's threads. The next blocks are requested before a steady reader asks."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

from datago_gpu.errors import SourceError
from datago_gpu.sources.http.excerpt import Excerpt
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.units import MiB

__all__ = ["RangeReader", "RemoteFile"]

_BLOCK = 4 * MiB
_AHEAD = 3
"""Blocks that are requested before they are needed: a single connection to a store gives 50 to 100 MB/s."""
_KEPT = 2 * (1 + _AHEAD)


class RangeReader(Protocol):
    """Reads a part of one remote file: see `HttpClient.get_range`."""

    def __call__(self, begin: int, end: int) -> Coroutine[Any, Any, Excerpt]: ...


class RemoteFile(io.RawIOBase):
    """A remote file of `size` bytes. Only for threads other than the loop's own, whose requests it waits for.

    Raises SourceError if the file cannot be read.
    """

    def __init__(self, read: RangeReader, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self._read, self._size, self._loop = read, size, loop
        self._position = self._last_end = 0
        self._blocks: OrderedDict[int, Future[Excerpt]] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Returns the next bytes: as many as asked for, fewer only at the end of the file."""
        begin = self._position
        end = self._size if size is None or size < 0 else min(self._size, begin + size)
        if begin >= end:
            return b""
        try:
            if begin == self._last_end:
                content = self._from_blocks(begin, end)
            else:
                content = self._ask(begin, end).result().exactly(end - begin)
        except HttpFailure as failure:
            raise SourceError(f"cannot read {failure}; check source_config.path") from failure
        self._position = self._last_end = end
        return content

    def close(self) -> None:
        """Gives up the requests under way."""
        for future in self._blocks.values():
            future.cancel()
        self._blocks.clear()
        super().close()

    def _from_blocks(self, begin: int, end: int) -> bytes:
        pieces = []
        for number in range(begin // _BLOCK, (end - 1) // _BLOCK + 1):
            for ahead in range(number, min(number + _AHEAD, (self._size - 1) // _BLOCK) + 1):
                if ahead not in self._blocks:
                    self._blocks[ahead] = self._ask(ahead * _BLOCK, min((ahead + 1) * _BLOCK, self._size))
            start = number * _BLOCK
            length = min(_BLOCK, self._size - start)
            block = self._blocks[number].result().exactly(length)
            pieces.append(block[max(0, begin - start) : end - start])
            self._blocks.move_to_end(number)
            while len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)[1].cancel()
        return b"".join(pieces)

    def _ask(self, begin: int, end: int) -> Future[Excerpt]:
        return asyncio.run_coroutine_threadsafe(self._read(begin, end), self._loop)
