"""What a cache of downloads costs while it fills, and what it gains later: three contestants that are all ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.suite.peers import OURS, Peer, run

__all__ = ["EMPTY", "FULL", "contestants"]

EMPTY, FULL = f"{OURS.name}, epoch 1: fills a cache", f"{OURS.name}, epoch 2: from the cache"
SIZE_GB = 4


@contextmanager
def contestants(
    ours: Peer, spec: dict[str, Any], within: tuple[str, ...], folder: Path
) -> Iterator[dict[str, Callable[[], dict[str, Any]]]]:
    """Gives the runs without a cache, with an empty one and with a full one below `folder`, for as long as it is open.

    Each epoch is a run, with the start of a run. The first run from the full cache fills it, and does not count.
    """
    with TemporaryDirectory(dir=folder) as full:

        def cached(path: str) -> dict[str, Any]:
            options = {**spec.get("options", {}), "cache": {"path": path, "size_gb": SIZE_GB}}
            return run(ours, {**spec, "options": options}, within)

        def fill() -> dict[str, Any]:
            with TemporaryDirectory(dir=folder) as empty:
                return cached(empty)

        cached(full)
        yield {OURS.name: partial(run, ours, spec, within), EMPTY: fill, FULL: partial(cached, full)}
