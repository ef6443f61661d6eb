"""One pass of a client: a loader, whose batches are handed out sample by sample to any number of threads."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from datago_gpu.compat.logs import log
from datago_gpu.config import LoaderConfig
from datago_gpu.errors import DatagoError
from datago_gpu.loader import Loader

if TYPE_CHECKING:
    from datago_gpu.batch import Sample

__all__ = ["Stream"]


class Stream:
    """Begins to load when it is made. Raises ConfigError or FeederError where that cannot be."""

    def __init__(self, config: LoaderConfig, device: str, backend: str) -> None:
        self._loader = Loader(config, device, backend)
        self._waiting: deque[Sample] = deque()  # of the batch that was taken last; its own methods are atomic
        self.ended = self._closed = False

    @property
    def is_closing(self) -> bool:
        """After `close`: whether a thread is still busy."""
        return self._loader.is_closing

    def next(self) -> Sample | None:
        """The next sample; None at the end, after an error, which is logged, and after `close`.

        From any thread. No lock is held while it waits but the loader's own, which `close` does not need: a signal's
        handler may call that while this thread waits.
        """
        while not self.ended:
            try:
                return self._waiting.popleft()
            except IndexError:
                self._fetch()
        try:  # another thread may have met the end while this one had a batch
            return None if self._closed else self._waiting.popleft()
        except IndexError:
            return None

    def close(self) -> None:
        """End it within a second, from any thread or signal handler, and wake whoever waits."""
        self.ended = self._closed = True
        self._loader.close()
        self._waiting.clear()

    def _fetch(self) -> None:
        try:
            self._waiting.extend(next(self._loader))
        except StopIteration:
            self.ended = True
        except DatagoError as error:
            log.error("the stream ends: %s", error)
            self.ended = True
        if self.ended:
            self._loader.close()
