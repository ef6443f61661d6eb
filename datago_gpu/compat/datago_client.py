"""`DatagoClient`, with the API of datago 2026.10."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from datago_gpu.compat.datago_settings import config_of_pass, loader_config
from datago_gpu.compat.logs import initialize_logging, log
from datago_gpu.compat.stream import Stream
from datago_gpu.config import LoaderConfig
from datago_gpu.decoders.select import choose
from datago_gpu.errors import DatagoError

if TYPE_CHECKING:
    from datago_gpu.compat.sample import Sample

__all__ = ["DatagoClient", "live_cleanup_threads"]

GPU_BATCH = 32
"""Batch size on a GPU, where the launch of a batch costs more than one image."""

_stopped: weakref.WeakSet[Stream] = weakref.WeakSet()


class DatagoClient:
    """Returns samples one by one. Loading begins at the first `get_sample` or `start`.

    str_config: datago's JSON. An invalid config is logged, and the client returns no samples. device, backend: as for
        Loader.

    `get_sample` may be called from several threads; each sample goes to one of them. After the end, or after `stop`,
    `get_sample` returns None; an explicit `start` begins the next pass. `stop` may be called from any thread and from a
    signal handler, and takes at most one second.
    """

    def __init__(self, str_config: str, *, device: str = "auto", backend: str = "auto") -> None:
        if not isinstance(str_config, str):
            raise TypeError(f"argument 'str_config': {type(str_config).__name__!r} object cannot be cast as 'str'")
        initialize_logging("warn")
        self._device, self._backend = device, backend
        self._config = _load_config(str_config, device, backend)
        self._starting = threading.RLock()  # a signal handler may interrupt `start` on its own thread
        self._stream: Stream | None = None
        self._begun = False
        self._stops = self._passes = 0

    def start(self) -> None:
        """Starts the first pass, or another one after the end or `stop`. Does nothing while a pass is running."""
        with self._starting:
            if self._config is None or (self._stream is not None and not self._stream.ended):
                return
            self._begun, stops = True, self._stops
            try:
                stream = Stream(config_of_pass(self._config, self._passes), self._device, self._backend)
            except DatagoError as error:
                log.error("the client cannot start: %s", error)
                return
            self._stream = stream
            self._passes += 1
            if self._stops != stops:  # a signal handler called `stop` meanwhile
                stream.close()

    def get_sample(self) -> Sample | None:
        """Returns the next sample, or None."""
        given = self._next()
        if given is None or self._config is None:
            return None
        from datago_gpu.compat.sample import to_datago  # imports PIL and numpy, like the Stream before

        return to_datago(given, self._config)

    def get_sample_auto_convert(self) -> dict[str, Any] | None:
        """Returns the next sample as a dict with PIL images, or None."""
        from datago_gpu.compat.sample import as_dict

        sample = self.get_sample()
        return None if sample is None else as_dict(sample)

    def stop(self) -> None:
        """Stops loading and wakes all threads that wait for a sample. May be called repeatedly."""
        self._begun, self._stops = True, self._stops + 1
        if self._stream is not None:
            _stopped.add(self._stream)
            self._stream.close()

    def _next(self) -> Any:
        if not self._begun:
            with self._starting:
                if not self._begun:
                    self.start()
        stream = self._stream
        return None if stream is None else stream.next()

    def __del__(self) -> None:
        if hasattr(self, "_stops"):  # otherwise __init__ failed
            self.stop()


def live_cleanup_threads() -> int:
    """Returns the number of threads that still decode an image although their client was stopped. They end alone."""
    return sum(stream.is_closing for stream in list(_stopped) if stream.ended)


def _load_config(text: str, device: str, backend: str) -> LoaderConfig | None:
    try:
        on_gpu = choose(device, backend).device_id is not None
        config = loader_config(text, GPU_BATCH) if on_gpu else loader_config(text)
        return config.anchor_paths()
    except DatagoError as error:
        log.error("invalid config: %s", error)
        return None
