"""datago's two APIs on top of Loader: change the import, and samples come as they did, from a GPU if there is one.

`from datago_gpu.compat import DatagoClient` is datago 2026.10; `from datago_gpu.compat import datago` is its first,
Go-backed API (`datago.GetClient(...)`).
"""

from __future__ import annotations

from datago_gpu.compat import datago
from datago_gpu.compat.client import DatagoClient, live_cleanup_threads
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
