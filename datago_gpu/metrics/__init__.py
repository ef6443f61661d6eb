"""Metrics that leave the process: Prometheus, OpenTelemetry, a local socket, traces, and callbacks of trainers.

    import datago_gpu.metrics

    datago_gpu.metrics.prometheus(dataset, port=9400, name="train")
    with datago_gpu.metrics.trace(dataset, "trace.json"): ...

docs/metrics.md lists every name. A package that a function needs is imported when the function is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datago_gpu.metrics.local_socket import listen
from datago_gpu.metrics.otel_meter import opentelemetry
from datago_gpu.metrics.perfetto import trace
from datago_gpu.metrics.prometheus_server import prometheus
from datago_gpu.metrics.watched import Registration

if TYPE_CHECKING:
    from datago_gpu.metrics.hugging_face import HuggingFaceCallback
    from datago_gpu.metrics.lightning_callback import LightningCallback

__all__ = [
    "HuggingFaceCallback",
    "LightningCallback",
    "Registration",
    "listen",
    "opentelemetry",
    "prometheus",
    "trace",
]

_OF_FRAMEWORKS = {"HuggingFaceCallback": "hugging_face", "LightningCallback": "lightning_callback"}


def __getattr__(name: str) -> Any:
    """Imports a callback on first use: its module imports the framework."""
    if name not in _OF_FRAMEWORKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"datago_gpu.metrics.{_OF_FRAMEWORKS[name]}"), name)
