"""What the rows of a table cost, without loading the images: the first rows, each row, and memory.

    python -m benchmarks.table_rows [--rows 10000000] [--read 400000] [--runs 1]

Writes synthetic tables of addresses with captions and sizes, as Arrow and as Parquet, and reads the samples of a source
as a feeder does: in order, shuffled, with a filter. Also a Parquet table that holds bytes, of 100 KB a row. Each figure
is of a process of its own, whose CPU time includes imports. Memory is that of the process itself (RssAnon), without
mapped files, which the kernel keeps only while there is room.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import machine, material_folder, parser, spread, table
from datago_gpu import LoaderConfig
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position

STEP = 250_000
BYTES = 100_000
TYPES = {
    "url": pa.string(),
    "caption": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "aesthetic": pa.float32(),
}
SCHEMA = pa.schema(list(TYPES.items()))
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("Arrow, in order", "arrow", {}),
    ("Arrow, shuffled", "arrow", {"random_sampling": True}),
    ("Arrow, shuffled, a filter", "arrow", {"random_sampling": True, "filter": "aesthetic > 5 and width >= 512"}),
    ("Parquet, in order", "parquet", {}),
    ("Parquet, in order, a filter", "parquet", {"filter": "aesthetic > 5 and width >= 512"}),
    ("Parquet, shuffled", "parquet", {"random_sampling": True}),
    ("Parquet with bytes, in order", "bytes.parquet", {}),
    ("Parquet with bytes, shuffled", "bytes.parquet", {"random_sampling": True}),
]


def main() -> None:
    options = parser(__doc__ or "", runs=1)
    options.add_argument("--rows", type=int, default=10_000_000, help="rows of addresses; a thousandth of bytes")
    options.add_argument("--read", type=int, default=400_000, help="rows to read of each table")
    options.add_argument("--only", default="", help="cases whose name begins so")
    options.add_argument("--case", help="for the processes of this script only")
    args = options.parse_args()
    if args.case:
        print(json.dumps(asyncio.run(read(json.loads(args.case), args.read))))
        return
    print(machine())
    folder = material_folder(args.material)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[float]]] = {}
    for name, kind, source in (case for case in CASES if case[0].startswith(args.only)):
        path = written(folder, kind, args.rows)
        runs = [run({"path": str(path), **source}, args.read) for _ in range(args.runs)]
        found[name] = {key: [each[key] for each in runs] for key in runs[0]}
    lines = [
        (name, *(spread(each[key]) for key in ("first_s", "row_us", "first_mb", "last_mb")))
        for name, each in found.items()
    ]
    heads = ["", "CPU s to the first row", "CPU us a row", "MiB then", "MiB in the end"]
    print("\n".join(table(heads, lines)))
    if args.json:
        args.json.write_text(json.dumps(found))


def run(source: dict[str, Any], most: int) -> dict[str, float]:
    """Reads a table in a process of its own."""
    words = ["--case", json.dumps(source), "--read", str(most)]
    command = [sys.executable, "-m", "benchmarks.table_rows", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(result.stdout)
    return found


async def read(source: dict[str, Any], most: int) -> dict[str, float]:
    """Lists samples up to a number. Returns seconds of CPU and memory."""
    config = LoaderConfig.load({"source_type": "table", "source_config": source})
    found: dict[str, float] = {}
    count, first = 0, 0.0
    async with HttpClient(config.http_config) as http, aclosing(open_source(config, http).refs(Position())) as refs:
        async for _ in refs:
            if not count:
                first = time.process_time()
                found |= {"first_s": first, "first_mb": own_memory()}
            count += 1
            if count == most:
                break
    return found | {"row_us": (time.process_time() - first) / count * 1e6, "last_mb": own_memory()}


def own_memory() -> float:
    """Returns the anonymous memory of this process in MiB."""
    match = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def written(folder: Path, kind: str, rows: int) -> Path:
    """Writes a table unless it is there. kind: how its name ends."""
    path = folder / f"rows-{rows}.{kind}"
    partial = path.with_name(f"partial-{path.name}")
    if path.exists():
        return path
    if kind == "bytes.parquet":
        schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
        with pq.ParquetWriter(partial, schema, compression="none", use_dictionary=False) as writer:
            blob = np.random.default_rng(0).bytes(BYTES + 100)
            for begin in range(0, max(100, rows // 1000), 100):
                cells = [{"bytes": blob[at : at + BYTES], "path": f"{begin + at}.jpg"} for at in range(100)]
                writer.write_table(pa.table({"image": cells}, schema))
    elif kind == "parquet":
        with pq.ParquetWriter(partial, SCHEMA) as writer:
            for begin in range(0, rows, STEP):
                writer.write_batch(addresses(begin, min(rows, begin + STEP)))
    else:
        with pa.ipc.new_file(str(partial), SCHEMA) as file:
            for begin in range(0, rows, STEP):
                file.write_batch(addresses(begin, min(rows, begin + STEP)))
    return partial.rename(path)


def addresses(begin: int, end: int) -> pa.RecordBatch:
    """Makes rows of addresses, captions, sizes and scores."""
    draws, count = np.random.default_rng(begin), end - begin
    columns = [
        [f"https://images.example.org/{at // 1000:06}/{at:012}.jpg" for at in range(begin, end)],
        [f"a photograph, number {at}, of something" for at in range(begin, end)],
        draws.integers(200, 2000, count, dtype=np.int32),
        draws.integers(200, 2000, count, dtype=np.int32),
        draws.random(count, dtype=np.float32) * 10,
    ]
    return pa.record_batch(columns, SCHEMA)


if __name__ == "__main__":
    main()
