"""datago_gpu: the image loader that feeds GPU training loops."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datago_gpu.batch import Batch, Sample
    from datago_gpu.config import LoaderConfig
    from datago_gpu.errors import ConfigError, DatagoError, DecodeError, FeederError, SourceError, TooManyErrors
    from datago_gpu.loader import Loader

__all__ = [
    "Batch",
    "ConfigError",
    "DatagoError",
    "DecodeError",
    "FeederError",
    "Loader",
    "LoaderConfig",
    "Sample",
    "SourceError",
    "TooManyErrors",
]

_HOMES = {"Batch": "batch", "Sample": "batch", "LoaderConfig": "config", "Loader": "loader"}


def __getattr__(name: str) -> Any:
    """Import what is asked for. The feeder process imports this package too, and needs neither Loader nor numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"datago_gpu.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
