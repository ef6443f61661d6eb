"""datago's two APIs on top of Loader: change the import and get the same samples, decoded on a GPU if there is one.

`from datago_gpu.compat import DatagoClient` is the API of datago 2026.10. `from datago_gpu.compat import datago` is
datago's first, Go-backed API (`datago.GetClient(...)`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datago_gpu.compat import datago
    from datago_gpu.compat.datago_client import DatagoClient, live_cleanup_threads
    from datago_gpu.compat.dataset import DatagoIterDataset
    from datago_gpu.compat.logs import initialize_logging
    from datago_gpu.compat.payload import ImagePayload

__all__ = [
    "DatagoClient",
    "DatagoIterDataset",
    "ImagePayload",
    "datago",
    "initialize_logging",
    "live_cleanup_threads",
]

_HOMES = {
    "DatagoClient": "datago_client",
    "DatagoIterDataset": "dataset",
    "ImagePayload": "payload",
    "initialize_logging": "logs",
    "live_cleanup_threads": "datago_client",
}


def __getattr__(name: str) -> Any:
    """Imports a name on first use: a client does not need numpy and PIL before its feeder has been started."""
    if name == "datago":
        return import_module("datago_gpu.compat.datago")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"datago_gpu.compat.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
