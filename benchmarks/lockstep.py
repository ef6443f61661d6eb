"""What lockstep costs: the same table, with and without `lockstep`, in turn.

    python -m benchmarks.lockstep [--pixels 500px] [--count 2000] [--batch-size 32] [--runs 5]

A run of either kind streams all rows of an Arrow table of local JPEGs, shuffled, at 224 px, with Pillow. Both kinds
alternate, so that whatever else the machine does touches both. Prints images a second and the feeder's CPU time for an
image, the median and range of the runs, and the ratio. Samples that only fill are not counted as images.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from benchmarks.common import machine, parser, spread, table
from benchmarks.in_turn import in_turn, medians, picture_options, pictures_of
from datago_gpu import Loader


def main() -> None:
    options = parser(__doc__ or "", runs=5)
    picture_options(options, 2000)
    args = options.parse_args()
    print(machine())
    rows = write_table(pictures_of(args))
    kinds = {"plain": False, "lockstep": True}
    found = in_turn(
        args.runs, {kind: partial(run, rows, args.batch_size, lockstep=lockstep) for kind, lockstep in kinds.items()}
    )
    lines = [(name, *map(spread, figures)) for name, figures in found.items()]
    print("\n".join(table(["", "images/s", "us of the feeder's CPU an image"], lines)))
    rates = {name: rate for name, (rate, _) in medians(found).items()}
    share = 1 - rates["lockstep"] / rates["plain"]
    print(f"\nlockstep costs {share:.1%} of the images a second")
    if args.json:
        args.json.write_text(json.dumps({**found, "cost": share}))


def write_table(folder: Path) -> Path:
    """Writes an Arrow table of the pictures of a folder, with their sizes, beside the folder."""
    path, rows = folder.with_suffix(".arrow"), list[dict[str, Any]]()
    for picture in sorted(folder.glob("*.jpg")):
        with Image.open(picture) as image:
            rows.append({"id": picture.stem, "path": str(picture), "width": image.width, "height": image.height})
    columns = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(str(path), columns.schema) as file:
        file.write_table(columns)
    return path


def run(rows: Path, batch_size: int, *, lockstep: bool) -> tuple[float, float]:
    """Images a second behind the first batch, and the feeder's microseconds of CPU for an image."""
    config = {
        "source_type": "table",
        "source_config": {"path": str(rows), "random_sampling": True},
        "image_config": {"crop_and_resize": True, "default_image_size": 224},
        "batch_size": batch_size,
        "lockstep": lockstep,
    }
    with Loader(config, device="cpu", backend="pillow") as loader:
        images = int(next(loader).real.sum())
        clock, first = time.perf_counter(), images
        for batch in loader:
            images += int(batch.real.sum())
        seconds, stats = time.perf_counter() - clock, loader.stats()
    return (images - first) / seconds, stats.feeder_cores * stats.seconds / images * 1e6


if __name__ == "__main__":
    main()
