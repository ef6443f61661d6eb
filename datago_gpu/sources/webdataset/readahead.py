"""Opens the shards of a stream before their turn comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import islice

from datago_gpu.eventloop import as_exception
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.webdataset.budget import Budget, Channel
from datago_gpu.sources.webdataset.shard_list import Shard
from datago_gpu.sources.webdataset.shard_reader import OpenShard
from datago_gpu.sources.webdataset.windows import Windows

__all__ = ["Opener", "ReadAhead"]

Opener = Callable[[Shard, Channel[SampleRef | Skipped], Callable[[], None]], OpenShard]
"""Opens a shard that passes its samples to the channel, and calls the function when all have arrived."""

_MOST_OPEN = 8
"""The most open shards per downloading shard: the others have been downloaded and wait for their turn."""


class ReadAhead:
    """Downloads `concurrent` shards at once, and keeps downloaded samples, up to `capacity` bytes.

    When a shard is downloaded, the next one starts: otherwise connections would idle while the shard whose turn it is
    is slow.
    windows: the memory that their decompressors share.
    """

    def __init__(
        self, shards: Iterable[Shard], opener: Opener, *, concurrent: int, capacity: int, windows: Windows
    ) -> None:
        self._windows = windows
        self._coming, self._opener, self._concurrent = enumerate(shards), opener, concurrent
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(capacity)
        self._open: deque[OpenShard] = deque()
        self._arriving = 0
        self._problem: Exception | None = None
        self._closed = False

    async def turns(self, counts: Iterable[int]) -> AsyncGenerator[list[OpenShard], None]:
        """Yields as many shards at a time as `counts` says, at most `concurrent`; of the last ones fewer if there are
        no more. Closes them when the next ones are requested. The generator itself must be closed. Raises an error of
        the opener when that shard's turn comes.
        """
        try:
            self._fill()
            turn = 0
            for count in counts:
                shards = list(islice(self._open, count))
                if self._problem and len(shards) < count:
                    raise self._problem
                self._windows.let(turn + len(shards))
                yield shards
                for _ in shards:
                    await self._open.popleft().close()
                turn += len(shards)
                self._fill()
        finally:
            self._closed = True
            for shard in self._open:
                await shard.close()

    def _fill(self) -> None:
        while self._arriving < self._concurrent and self._may_open():
            turn, shard = next(self._coming, (0, None))
            if shard is None:
                return
            try:
                opened = self._opener(shard, Channel(self._loop, self._budget, turn), self._note_arrival)
            except BaseException as error:  # raised when its turn comes
                self._problem = as_exception(error)
                return
            self._arriving += 1
            self._open.append(opened)

    def _may_open(self) -> bool:
        """Returns whether to open another shard: above `concurrent` only while there is room for its samples."""
        if self._closed or self._problem:
            return False
        count = len(self._open)
        spacious = self._budget.held <= self._budget.capacity // 2
        return count < self._concurrent or (spacious and count < self._concurrent * _MOST_OPEN)

    def _note_arrival(self) -> None:
        self._arriving -= 1
        self._fill()
