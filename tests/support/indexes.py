"""Makes indexes for tests, and reads them; and what a Loader makes of the same source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from datago_gpu import Loader
from datago_gpu.config import LoaderConfig
from datago_gpu.index.build import Summary, build_index

HASTY = {"max_backoff_s": 0.02, "stall_timeout_s": 0.3, "total_timeout_s": 5, "max_tries": 12}
"""http_config for servers that misbehave."""
Sizes = dict[str, tuple[int, int]]


def make(config: dict[str, Any] | LoaderConfig, out: Path, **more: Any) -> Summary:
    """Makes an index without further processes."""
    return build_index(LoaderConfig.load(config), out, readers=0, **more)


def read_rows(out: Path) -> list[dict[str, Any]]:
    with pa.OSFile(str(out), "rb") as file:
        rows: list[dict[str, Any]] = pa.ipc.open_file(file).read_all().to_pylist()
    return rows


def usable(out: Path) -> Sizes:
    """id -> (height, width) of the rows that can be used."""
    return {row["id"]: (row["height"], row["width"]) for row in read_rows(out) if row["reason"] is None}


def reasons(out: Path) -> dict[str, str]:
    """id, or the path of what has none -> the reason."""
    rows = read_rows(out)
    return {row["id"] or row["path"] or row["url"]: row["reason"] for row in rows if row["reason"]}


def delivered(config: dict[str, Any]) -> Sizes:
    """id -> original size of all samples that a Loader delivers."""
    sizes: Sizes = {}
    config = {**config, "batch_size": 16, "decode_config": {"processes": 0, **config.get("decode_config", {})}}
    with Loader(config, device="cpu", backend="pillow") as loader:
        for batch in loader:
            rows = zip(batch.ids, batch.original_sizes.tolist(), strict=True)
            sizes |= {name: (height, width) for name, (height, width) in rows}
    return sizes
