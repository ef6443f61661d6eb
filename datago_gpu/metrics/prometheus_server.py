"""Prometheus: a server that it asks, or a collector in a registry of the program's own. Only this module imports
prometheus_client."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from datago_gpu.config.ranks import find_local_rank
from datago_gpu.errors import ConfigError
from datago_gpu.loader.durations import Durations
from datago_gpu.metrics.catalog import BUCKETS_S
from datago_gpu.metrics.watched import HasStats, Reading, Registration, Watched

__all__ = ["prometheus"]

_LARGEST_PORT = 65535


def prometheus(
    loader: HasStats, port: int | None = None, *, name: str = "", address: str = "0.0.0.0", registry: Any = None
) -> Registration:
    """Lets Prometheus read the metrics of a loader, until the loader is closed or no longer used.

    loader: a Loader, or a LoaderDataset, whose counts go on over its passes.
    port: serve http://ADDRESS:PORT/metrics. Several loaders of a process may share a port. Where a machine has several
        ranks, each serves PORT plus its local rank. 0: any free port; `Registration.port` says which.
    name: the label `name`, which tells loaders apart: "train", "val".
    registry: a CollectorRegistry of prometheus_client, for a program that has a server of its own. Without `port` and
        `registry`, the metrics go to prometheus_client's default registry.

    Raises ConfigError if prometheus_client is missing, the port is taken, or the name is.
    """
    client = _import_client()
    if port is None:
        registry = client.REGISTRY if registry is None else registry
        return _Collector.of(registry).watched.add(loader, name)
    if registry is not None:
        raise ConfigError("give either a port, for a server of its own, or a registry that the program serves")
    with _lock:
        server = _server_at(address, port)
        try:
            registration = server.watched.add(loader, name)
        except ConfigError:
            server.stop_if_unused()
            raise
    registration.port = server.port
    return registration


def _import_client() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise ConfigError(
            f"metrics for Prometheus need the package prometheus-client: pip install 'datago_gpu[metrics]' ({error})"
        ) from error
    return prometheus_client


class _Collector:
    """Gives the metrics of some loaders to a registry of prometheus_client, which asks `collect` at each scrape."""

    def __init__(self, registry: Any, watched: Watched) -> None:
        self.watched = watched
        registry.register(self)

    @classmethod
    def of(cls, registry: Any) -> _Collector:
        """Returns the collector of a registry, which gets one if it has none. The collector stays there; without
        loaders it has no metrics."""
        with _lock:
            if registry not in _collectors:
                _collectors[registry] = cls(registry, Watched())
            return _collectors[registry]

    def describe(self) -> list[Any]:
        """Returns nothing, so that the registry does not ask for values when it is given this object."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yields the metrics in the form of prometheus_client."""
        from prometheus_client import core

        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        families: dict[str, Any] = {}
        for reading in self.watched.readings():
            metric = reading.metric
            if metric.stem not in families:
                labels = ("name", "rank", *metric.labels)
                families[metric.stem] = kinds[metric.kind](metric.prometheus_name, metric.meaning, labels=labels)
            _add(families[metric.stem], reading)
        yield from families.values()


def _add(family: Any, reading: Reading) -> None:
    labels, value = list(reading.labels.values()), reading.value
    if isinstance(value, Durations):
        buckets = [(str(bound), value.up_to(bound)) for bound in BUCKETS_S]
        family.add_metric(labels, buckets=[*buckets, ("+Inf", value.count)], sum_value=value.sum_s)
    else:
        family.add_metric(labels, value)


class _Server:
    """An HTTP server on a thread of its own. It ends with the last loader registered at it."""

    def __init__(self, address: str, port: int) -> None:
        import prometheus_client

        registry = prometheus_client.CollectorRegistry()
        try:
            self._server, self._thread = prometheus_client.start_http_server(port, address, registry)
        except OSError as error:
            raise ConfigError(
                f"port {port} of {address} cannot be served for Prometheus ({error.strerror or error}): pass another "
                "port, or 0 for any free one"
            ) from error
        self.port = int(self._server.server_port)
        self._key = address, self.port
        self.watched = Watched(self.stop_if_unused)
        _Collector(registry, self.watched)
        _servers[self._key] = self

    def stop_if_unused(self) -> None:
        """Ends the server if no loader is registered. That takes up to half a second, for which nobody waits."""
        if not self.watched and _servers.get(self._key) is self:
            del _servers[self._key]
            threading.Thread(target=self._stop, name="datago-metrics-end", daemon=True).start()

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_lock = threading.RLock()
"""Held while servers and collectors are made. A signal handler that closes a loader may interrupt its own thread."""
_servers: dict[tuple[str, int], _Server] = {}
os.register_at_fork(after_in_child=_servers.clear)  # the server's thread is in the parent alone
_collectors: weakref.WeakKeyDictionary[Any, _Collector] = weakref.WeakKeyDictionary()


def _server_at(address: str, port: int) -> _Server:
    """Returns the server of this process for a port, which is started if there is none. Raises ConfigError."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= _LARGEST_PORT:
        raise ConfigError(f"port must be a whole number from 0 to {_LARGEST_PORT}, got {port!r}")
    own = port + (find_local_rank().rank or 0) if port else 0
    if own > _LARGEST_PORT:
        raise ConfigError(f"port {port} plus the local rank is {own}, above {_LARGEST_PORT}: pass a lower port")
    return _servers.get((address, own)) or _Server(address, own)
