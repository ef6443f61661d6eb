"""Writes tables in all formats, and lists their samples without a Loader."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq

from datago_gpu.config import LoaderConfig
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, SampleRef, Skipped

FORMATS = ("parquet", "arrow", "feather", "jsonl", "csv", "tsv")
"""What `write_table` writes. An .arrow is a file, a .feather is compressed."""


def write_table(path: Path, rows: pa.Table | list[dict[str, Any]] | dict[str, list[Any]], **options: Any) -> Path:
    """Writes a table in the format that the name asks for. options: of the writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make = pa.Table.from_pylist if isinstance(rows, list) else pa.table
    table = rows if isinstance(rows, pa.Table) else make(rows)
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path, **options)
        case ".arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, **options)
        case ".feather":
            pyarrow.feather.write_feather(table, path, **options)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
        case ".csv" | ".tsv":
            separator = "," if path.suffix == ".csv" else "\t"
            pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter=separator))
    return path


def table_config(path: Path | str, *, top: dict[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    """Returns a config of a table. top: settings of the top level."""
    return {"source_type": "table", "source_config": {"path": str(path), **source}, **(top or {})}


def samples_of(config: dict[str, Any], start: Position = Position()) -> list[SampleRef | Skipped]:  # noqa: B008 - it is a constant
    """Returns what the source lists from a position on."""

    async def main() -> list[SampleRef | Skipped]:
        loaded = LoaderConfig.load(config)
        async with HttpClient(loaded.http_config) as http, aclosing(open_source(loaded, http).refs(start)) as refs:
            return [ref async for ref in refs]

    return asyncio.run(main())


def ids_of(config: dict[str, Any], start: Position = Position()) -> list[str]:  # noqa: B008 - it is a constant
    """Returns the ids of the samples that the source lists."""
    return [sample.id for sample in samples_of(config, start)]
