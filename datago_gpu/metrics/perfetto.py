"""Traces a window of time, for https://ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from datago_gpu.errors import ConfigError
from datago_gpu.loader import Loader

if TYPE_CHECKING:
    from datago_gpu.torch import LoaderDataset

__all__ = ["trace"]


@contextmanager
def trace(loader: Loader | LoaderDataset, path: str | os.PathLike[str]) -> Iterator[None]:
    """Records what each stage does while the block runs, and writes the file at its end.

    loader: a Loader; or a LoaderDataset during a pass, which is then recorded to its end at the most.
    path: of a JSON file. Open it at https://ui.perfetto.dev, which reads it in the browser.

    The tracks are the trainer's thread (data wait, step), the decoding thread and its batches (decode), and in the
    feeder the listing (list), each download or job of files (fetch), the checks (admit), and the batches (pack).
    Recording takes a few microseconds for each sample. Outside of the block it costs nothing. One trace at a time.

    If the disk is full at the end, a warning says so. Raises ConfigError if the file cannot be made, no pass is under
    way, or another trace is.
    """
    running = loader if isinstance(loader, Loader) else getattr(loader, "loader", None)
    if not isinstance(running, Loader):
        before = " before its first pass" if hasattr(loader, "loader") else ""
        raise ConfigError(
            f"a trace needs a Loader, or a LoaderDataset during a pass, got a {type(loader).__name__}{before}"
        )
    window = running.open_trace(Path(path).absolute())
    try:
        yield
    finally:
        window.close()
