"""OpenTelemetry: instruments of a meter, which the program's SDK collects. Only this module imports opentelemetry."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import repeat
from typing import Any

from datago_gpu.errors import ConfigError
from datago_gpu.loader.durations import BOUNDS_S, Durations
from datago_gpu.metrics.catalog import BUCKETS_S, METRICS, Metric
from datago_gpu.metrics.watched import HasStats, Registration, Watched

__all__ = ["opentelemetry"]


def opentelemetry(loader: HasStats, meter: Any = None, *, name: str = "") -> Registration:
    """Adds the metrics of a loader to a meter, until the loader is closed or no longer used.

    loader: a Loader, or a LoaderDataset, whose counts go on over its passes.
    meter: of opentelemetry's API. None: the meter "datago_gpu" of the program's MeterProvider.
    name: the attribute `name`, which tells loaders apart: "train", "val".

    The loader does nothing for it: values are read when the SDK collects. The durations of histograms are then recorded
    to within 6%, and counted in their exact buckets.

    Raises ConfigError if opentelemetry is missing or the name is taken.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise ConfigError(
            f"metrics for OpenTelemetry need the package opentelemetry-sdk: pip install 'datago_gpu[otel]' ({error})"
        ) from error
    if meter is None:
        meter = metrics.get_meter("datago_gpu", _version())
    with _lock:
        if meter not in _instruments:
            _instruments[meter] = _Instruments(meter)
        return _instruments[meter].watched.add(loader, name)


def _version() -> str:
    try:
        return metadata.version("datago-gpu")
    except metadata.PackageNotFoundError:
        return "0"


class _Instruments:
    """The instruments of one meter, for all loaders registered there. An instrument cannot be removed or made twice."""

    def __init__(self, meter: Any) -> None:
        self.watched = Watched()
        self._recorded: weakref.WeakKeyDictionary[Any, dict[str, Durations]] = weakref.WeakKeyDictionary()
        """Loader -> what its histograms have recorded."""
        self._histograms = {
            metric: meter.create_histogram(
                metric.otel_name, metric.unit, metric.meaning, explicit_bucket_boundaries_advisory=BUCKETS_S
            )
            for metric in METRICS
            if metric.kind == "histogram"
        }
        create = {"counter": meter.create_observable_counter, "gauge": meter.create_observable_gauge}
        for metric in METRICS:
            if metric.kind != "histogram":
                read = self._observe_and_record if metric is METRICS[0] else self._observe
                create[metric.kind](metric.otel_name, [_callback(read, metric)], metric.unit, metric.meaning)

    def _observe(self, metric: Metric) -> Iterator[Any]:
        from opentelemetry.metrics import Observation

        for reading in self.watched.readings():
            if reading.metric is metric:
                yield Observation(reading.value, reading.labels)

    def _observe_and_record(self, metric: Metric) -> Iterator[Any]:
        """Observes a metric, and records the durations since the last time: a histogram has no callback of its own."""
        for loader, stats in self.watched.snapshots():
            recorded = self._recorded.setdefault(loader, {})
            attributes = {"name": loader.shown_name, "rank": str(stats.rank)}
            for each, histogram in self._histograms.items():
                now, before = each.durations(stats), recorded.get(each.stem, Durations())
                recorded[each.stem] = now
                if now.count < before.count:  # `load_state_dict`
                    before = Durations()
                for value in _values(now.plus(before, -1)):
                    histogram.record(value, attributes)
        yield from self._observe(metric)


def _callback(read: Callable[[Metric], Iterator[Any]], metric: Metric) -> Callable[[Any], Iterator[Any]]:
    return lambda _options: read(metric)


def _values(durations: Durations) -> Iterator[float]:
    """Yields as many values as there are durations, each in the middle of its bucket."""
    for below, above, count in zip((0.0, *BOUNDS_S), (*BOUNDS_S, BOUNDS_S[-1]), durations.counts, strict=True):
        yield from repeat((below + above) / 2 if below < above else above * 1.01, count)


_lock = threading.RLock()
_instruments: weakref.WeakKeyDictionary[Any, _Instruments] = weakref.WeakKeyDictionary()
