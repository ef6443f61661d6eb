"""What rows of a program's own cost: the same JPEGs as a folder, and as rows by path, by bytes, and of a generator.

    python -m benchmarks.own_rows [--pixels 500px] [--count 1000] [--batch-size 32] [--runs 5]

Each run streams all pictures at 224 px, with Pillow. The kinds alternate, so that whatever else the machine does
touches all of them. Prints the mean KB of an image and, as the median and range of the runs, for an image: the CPU
time of the thread that reads the rows in the trainer's process ("datago-rows"), and that of the feeder, its start
included.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import machine, parser, spread, table
from benchmarks.in_turn import in_turn, picture_options, pictures_of
from datago_gpu import Loader, Row


def main() -> None:
    options = parser(__doc__ or "", runs=5)
    picture_options(options, 1000)
    args = options.parse_args()
    print(machine())
    folder = pictures_of(args)
    pictures = sorted(folder.glob("*.jpg"))
    rows = [Row(path.name, path.read_bytes()) for path in pictures]
    kinds: dict[str, Any] = {
        "a folder": None,
        "rows by path": [Row(path.name, path) for path in pictures],
        "rows by bytes": rows,
        "a generator of bytes": lambda epoch: (row for row in rows),  # noqa: ARG005 - it is called with the epoch
    }
    found = in_turn(args.runs, {kind: partial(run, folder, source, args.batch_size) for kind, source in kinds.items()})
    print(f"{sum(path.stat().st_size for path in pictures) / len(pictures) / 1e3:.0f} KB an image\n")
    lines = [(kind, *map(spread, figures)) for kind, figures in found.items()]
    print("\n".join(table(["", "us of the thread of the rows", "us of the feeder"], lines)))
    if args.json:
        args.json.write_text(json.dumps(found))


def run(folder: Path, source: object, batch_size: int) -> tuple[float, float]:
    """Microseconds of CPU for an image: of the thread of the rows, and of the feeder."""
    config: dict[str, Any] = {
        "image_config": {"crop_and_resize": True, "default_image_size": 224},
        "batch_size": batch_size,
    }
    if source is None:
        config |= {"source_type": "file", "source_config": {"root_path": str(folder)}}
    images, thread = 0, 0.0
    with Loader(config, device="cpu", backend="pillow", source=source) as loader:
        for batch in loader:
            images += len(batch)
            thread = max(thread, _cpu_of_threads("datago-rows"))
        stats = loader.stats()
    return thread / images * 1e6, stats.feeder_cores * stats.seconds / images * 1e6


def _cpu_of_threads(name: str) -> float:
    """Seconds of CPU of the threads of that name that are alive."""
    seconds = 0.0
    for thread in threading.enumerate():
        if thread.name == name:
            with suppress(OSError):  # it has just ended
                seconds += int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9
    return seconds


if __name__ == "__main__":
    main()
