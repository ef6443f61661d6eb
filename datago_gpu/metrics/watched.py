"""The loaders that one exporter reads, and how they come and go."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, Self

from datago_gpu.errors import ConfigError
from datago_gpu.loader.durations import Durations
from datago_gpu.loader.stats import Stats
from datago_gpu.metrics.catalog import METRICS, Metric

__all__ = ["HasStats", "Reading", "Registration", "Watched", "WatchedLoader"]

_log = logging.getLogger("datago_gpu")


class HasStats(Protocol):
    """What can be registered: a Loader or a LoaderDataset."""

    def stats(self) -> Stats:
        """Returns the counts so far."""
        ...


class Reading(NamedTuple):
    """The value of one metric of one loader. labels: all of them, with `name` and `rank` first."""

    metric: Metric
    labels: dict[str, str]
    value: float | Durations


class WatchedLoader:
    """Reads one loader. Counters never decrease, though a wait is read while it is being counted."""

    def __init__(self, loader: HasStats, name: str) -> None:
        self.name, self._loader = name, weakref.ref(loader)
        self.shown_name = _encodable(name)
        """The label `name`."""
        self._highest: dict[tuple[str, ...], float] = {}
        self._seconds, self._has_failed = 0.0, False

    def is_gone(self) -> bool:
        """Returns whether nobody uses the loader any more."""
        return self._loader() is None

    def stats(self) -> Stats | None:
        """Returns the statistics; None if the loader is gone, or cannot tell them, which is logged once."""
        loader = self._loader()
        try:
            found = None if loader is None else loader.stats()
        except Exception:  # the other loaders of the exporter still have metrics
            if not self._has_failed:
                _log.exception("the metrics of the loader %r cannot be read", self.name)
            self._has_failed = True
            return None
        self._has_failed = False
        return found

    def readings(self, stats: Stats) -> Iterator[Reading]:
        """Yields the value of every metric."""
        if stats.seconds < self._seconds:  # `load_state_dict`: all counters begin anew
            self._highest.clear()
        self._seconds = stats.seconds
        common = {"name": self.shown_name, "rank": str(stats.rank)}
        for metric in METRICS:
            if metric.kind == "histogram":
                yield Reading(metric, common, metric.durations(stats))
            for labels, found in metric.read(stats):
                value = self._never_less((metric.stem, *labels), found) if metric.kind == "counter" else found
                own = zip(metric.labels, map(_encodable, labels), strict=True)
                yield Reading(metric, common | dict(own), value)

    def _never_less(self, key: tuple[str, ...], value: float) -> float:
        self._highest[key] = max(value, self._highest.get(key, 0.0))
        return self._highest[key]


def _encodable(text: str) -> str:
    """Returns the text with ? for what UTF-8 cannot encode: one such name would spoil the metrics of all loaders."""
    return text.encode(errors="replace").decode()


class Watched:
    """The loaders that one exporter reads. Any thread may call anything.

    at_end: is called when the last loader is gone, also by the garbage collector, which may interrupt any thread.
    """

    def __init__(self, at_end: Callable[[], None] | None = None) -> None:
        self._at_end = at_end
        self._lock = threading.RLock()
        self._loaders: list[WatchedLoader] = []

    def add(self, loader: HasStats, name: str) -> Registration:
        """Adds a loader until the registration, or the loader, is closed, or the loader is no longer used.

        Raises ConfigError if another loader has the name, or the name is no text.
        """
        if not callable(getattr(loader, "stats", None)):
            raise ConfigError(f"only a Loader or a LoaderDataset has metrics, got {type(loader).__name__}")
        if not isinstance(name, str):
            raise ConfigError(f"name must be a text, got {name!r}")
        with self._lock:
            if any(each.name == name and not each.is_gone() for each in self._loaders):
                raise ConfigError(
                    f"a loader is already registered here with the name {name!r}: pass another name, such as "
                    'name="val", or close the registration of the other one'
                )
            watched = WatchedLoader(loader, name)
            self._loaders.append(watched)
        return Registration(loader, lambda: self._remove(watched))

    def readings(self) -> list[Reading]:
        """Returns all metrics of all loaders."""
        with self._lock:
            return [reading for each, stats in self.snapshots() for reading in each.readings(stats)]

    def __bool__(self) -> bool:
        return bool(self._loaders)

    def snapshots(self) -> list[tuple[WatchedLoader, Stats]]:
        """Returns each loader with its statistics."""
        with self._lock:
            return [(each, stats) for each in self._loaders if (stats := each.stats()) is not None]

    def _remove(self, watched: WatchedLoader) -> None:
        with self._lock:
            self._loaders = [each for each in self._loaders if each is not watched]
            is_last = not self._loaders
        if is_last and self._at_end:
            self._at_end()


class Registration:
    """Keeps a loader registered until `close`, which may be called more than once. Also usable in a `with`."""

    port: int | None = None
    """The port that Prometheus asks, if there is a server."""
    path: str = ""
    """The path of the local socket, if there is one."""

    def __init__(self, loader: HasStats, remove: Callable[[], None]) -> None:
        self._end = weakref.finalize(loader, remove)
        self._end.atexit = False
        call_at_close = getattr(loader, "call_at_close", None)
        if call_at_close is not None:
            call_at_close(self.close)

    def close(self) -> None:
        """Removes the loader from the exporter. With the last loader, its server ends."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
