"""One pass of a client: a loader whose samples are returned one by one to any number of threads."""

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
    """One pass. Loading starts in the constructor, which raises ConfigError or FeederError if it cannot start."""

    def __init__(self, config: LoaderConfig, device: str, backend: str) -> None:
        self._loader = Loader(config, device, backend)
        self._waiting: deque[Sample] = deque()  # rest of the last batch; the methods of a deque are atomic
        self.ended = self._closed = False

    @property
    def is_closing(self) -> bool:
        """After `close`: whether the decoding thread is still busy."""
        return self._loader.is_closing

    def next(self) -> Sample | None:
        """Returns the next sample; None at the end, after an error (which is logged), and after `close`.

        Safe on any thread. While waiting, this method holds only the loader's lock, which `close` does not need. So a
        signal handler may call `close` while this thread waits.
        """
        while not self.ended:
            try:
                return self._waiting.popleft()
            except IndexError:
                self._fetch()
        try:  # another thread may have reached the end while this one got a batch
            return None if self._closed else self._waiting.popleft()
        except IndexError:
            return None

    def close(self) -> None:
        """Ends the pass within a second and wakes all waiting threads. Safe on any thread and in signal handlers."""
        self.ended = self._closed = True
        self._loader.close()
        self._waiting.clear()

    def _fetch(self) -> None:
        try:
            # Samples that come one by one need none that only fill a batch.
            self._waiting.extend(sample for sample in next(self._loader) if sample.real)
        except StopIteration:
            self.ended = True
        except DatagoError as error:
            log.error("the stream ends: %s", error)
            self.ended = True
        if self.ended:
            self._loader.close()
