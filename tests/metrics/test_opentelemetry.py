"""What the SDK of OpenTelemetry collects, and that its exporter for Prometheus makes the same names of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from datago_gpu import ConfigError
from datago_gpu.metrics import opentelemetry
from datago_gpu.metrics.catalog import METRICS
from tests.metrics.fakes import FULL, Fake, durations
from tests.support.needs import needs

sdk = needs("opentelemetry.sdk.metrics")
export = needs("opentelemetry.sdk.metrics.export")


def collected(reader: Any) -> dict[str, Any]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_the_sdk_collects_every_metric_with_its_unit() -> None:
    reader = export.InMemoryMetricReader()
    meter = sdk.MeterProvider([reader]).get_meter("a program")
    train, val = Fake(), Fake(replace(FULL, delivered=7))
    with opentelemetry(train, meter, name="train"), opentelemetry(val, meter, name="val"):
        found = collected(reader)
        assert {(name, metric.unit) for name, metric in found.items()} == {
            (metric.otel_name, metric.unit) for metric in METRICS
        }
        points = {point.attributes["name"]: point for point in found["datago_gpu.samples"].data.data_points}
        assert {name: point.value for name, point in points.items()} == {"train": 300, "val": 7}
        assert points["val"].attributes == {"name": "val", "rank": "3", "source": "file"}
        with pytest.raises(ConfigError, match="already registered here with the name 'val'"):
            opentelemetry(Fake(), meter, name="val")
    assert not collected(reader).get("datago_gpu.samples")


def test_a_histogram_records_each_duration_once() -> None:
    reader = export.InMemoryMetricReader()
    meter = sdk.MeterProvider([reader]).get_meter("a program")
    loader = Fake()
    with opentelemetry(loader, meter, name="\udc80"):
        collected(reader)
        loader.now = replace(FULL, data_wait=durations(0.002, 0.002, 0.2, 0.2, 70.0))
        (point,) = collected(reader)["datago_gpu.data_wait"].data.data_points
        (point,) = collected(reader)["datago_gpu.data_wait"].data.data_points
    assert point.attributes == {"name": "?", "rank": "3"}, "no exporter can write half a surrogate pair"
    counts = dict(zip((*point.explicit_bounds, None), point.bucket_counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {0.0025: 2, 0.25: 2, None: 1}
    assert point.sum == pytest.approx(70.404, rel=0.06)


def test_the_exporter_for_prometheus_has_the_same_names() -> None:
    exporter = needs("opentelemetry.exporter.prometheus")
    client = needs("prometheus_client")
    provider = sdk.MeterProvider([exporter.PrometheusMetricReader()])
    meter = provider.get_meter("a program")
    loader = Fake()
    with opentelemetry(loader, meter, name="train"):
        text = client.generate_latest().decode()
    typed = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE datago_gpu")}
    assert typed == {metric.prometheus_name: metric.kind for metric in METRICS}
    provider.shutdown()


def test_the_program_s_own_provider_and_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with opentelemetry(Fake()):  # without a provider, the API collects nothing
        pass
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"pip install 'datago_gpu\[otel\]'"):
        opentelemetry(Fake())
