"""Prometheus' text format: written for the local socket, and read by `datago-gpu top`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from datago_gpu.loader.durations import Durations
from datago_gpu.metrics.catalog import BUCKETS_S
from datago_gpu.metrics.watched import Reading

__all__ = ["Line", "parse_text", "render_text"]

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


class Line(NamedTuple):
    """One value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


def render_text(readings: Iterable[Reading]) -> str:
    """Returns the text for these values, with the values of each metric together."""
    by_name: dict[str, list[Reading]] = {}
    for reading in readings:
        by_name.setdefault(reading.metric.prometheus_name, []).append(reading)
    lines = []
    for name, found in by_name.items():
        lines += [f"# HELP {name} {found[0].metric.meaning}", f"# TYPE {name} {found[0].metric.kind}"]
        for line in (line for reading in found for line in _lines(reading)):
            labels = ",".join(f'{label}="{_escape(value)}"' for label, value in line.labels.items())
            lines.append(f"{line.name}{{{labels}}} {line.value:.17g}")
    return "\n".join([*lines, ""])


def parse_text(text: str) -> Iterator[Line]:
    """Yields the values of a text. Lines of another form are left out."""
    for row in text.split("\n"):
        if not row.startswith("#") and (found := _LINE.match(row)):
            name, labels, value = found.groups()
            named = {label: _unescape(each) for label, each in _LABEL.findall(labels or "")}
            with suppress(ValueError):
                yield Line(name, named, float(value))


def _lines(reading: Reading) -> Iterator[Line]:
    name, labels, value = reading.metric.prometheus_name, reading.labels, reading.value
    if not isinstance(value, Durations):
        yield Line(name, labels, value)
        return
    for bound in BUCKETS_S:
        yield Line(f"{name}_bucket", {**labels, "le": str(bound)}, value.up_to(bound))
    yield Line(f"{name}_bucket", {**labels, "le": "+Inf"}, value.count)
    yield Line(f"{name}_sum", labels, value.sum_s)
    yield Line(f"{name}_count", labels, value.count)


def _escape(value: str) -> str:
    return "".join(_ESCAPED.get(each, each) for each in value)


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), value)
