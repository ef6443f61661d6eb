"""What `datago-gpu index` costs: for a folder, an update of its index, and shards.

    python -m benchmarks.indexing [--count 100000] [--runs 3]

The pictures are hard links to 50 JPEGs of about 20 KB, ten of which must be turned, 1,000 in a folder, and copies of
them in tar files of 1,000 samples. Page cache and names are warm after the first run. CPU time is that of the command
and its processes. Memory is the largest of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import machine, material_folder, parser, spread, table

IN_A_FOLDER = 1000
DIFFERENT = 50
ORIENTATION = 0x0112
COUNTING = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout, done.stderr, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""A program that runs a command, and prints its results and what it and its processes have used."""


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--count", type=int, default=100_000, help="pictures in the folder; a fifth of them in shards")
    options.add_argument("--only", default="", help="sources whose name begins so")
    options.add_argument(
        "--updates", action=argparse.BooleanOptionalAction, default=True, help="also update each index"
    )
    args = options.parse_args()
    print(machine())
    material = material_folder(args.material) / f"indexing-{args.count}"
    pictures = made_pictures(material / "originals")
    sources = {
        "a folder": ["--root-path", str(linked(pictures, material / "folder", args.count))],
        "shards": ["--url", str(packed(pictures, material / "shards", max(1, args.count // 5)))],
    }
    found: dict[str, dict[str, list[float]]] = {}
    for name, source in ((name, source) for name, source in sources.items() if name.startswith(args.only)):
        out = material / f"{name.replace(' ', '-')}.arrow"
        for what in (name, f"{name}, again with --update")[: 1 + args.updates]:
            runs = [indexed(source, out, update="update" in what) for _ in range(args.runs)]
            found[what] = {key: [run[key] for run in runs] for key in runs[0]}
    heads = ["", "samples", "s", "CPU s", "CPU us a sample", "MiB"]
    lines = [
        (name, f"{each['samples'][0]:,.0f}", *(spread(each[key]) for key in ("seconds", "cpu_s", "cpu_us", "mib")))
        for name, each in found.items()
    ]
    print("\n".join(table(heads, lines)))
    if args.json:
        args.json.write_text(json.dumps(found))


def indexed(source: list[str], out: Path, *, update: bool) -> dict[str, float]:
    """Runs the command, and returns what it has used."""
    if not update:
        out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "datago_gpu.cli", "index", *source, "--out", str(out), *["--update"] * update]
    clock = time.perf_counter()
    counted = subprocess.run([sys.executable, "-c", COUNTING, *command], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - clock
    status, printed, said, cpu_s, mib = json.loads(counted.stdout)
    if status:
        raise SystemExit(said)
    samples = next(line.split()[1] for line in printed.splitlines() if line.split()[:1] == ["samples"])
    count = int(samples.replace(",", ""))
    return {"samples": count, "seconds": seconds, "cpu_s": cpu_s, "cpu_us": cpu_s / count * 1e6, "mib": mib}


def made_pictures(folder: Path) -> list[Path]:
    """Writes the JPEGs that all others are links to or copies of."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{each:02}.jpg" for each in range(DIFFERENT)]
    draws = np.random.default_rng(0)
    for place, path in enumerate(paths):
        height, width = draws.integers(20, 50, 2)
        blocks = draws.integers(0, 255, (height, width, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[ORIENTATION] = 1 if place % 5 else 6
        if not path.exists():
            Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(path, quality=85, exif=exif)
    return paths


def linked(pictures: list[Path], folder: Path, count: int) -> Path:
    """Makes a folder of hard links."""
    for begin in range(0, count, IN_A_FOLDER):
        place = folder / f"{begin // IN_A_FOLDER:04}"
        if place.exists():
            continue
        place.mkdir(parents=True)
        for each in range(begin, min(count, begin + IN_A_FOLDER)):
            os.link(pictures[each % DIFFERENT], place / f"{each:07}.jpg")
    return folder


def packed(pictures: list[Path], folder: Path, count: int) -> Path:
    """Makes shards: a picture and a caption for each sample."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [path.read_bytes() for path in pictures]
    for begin in range(0, count, IN_A_FOLDER):
        path = folder / f"{begin // IN_A_FOLDER:04}.tar"
        if path.exists():
            continue
        with tarfile.open(path, "w") as tar:
            for each in range(begin, min(count, begin + IN_A_FOLDER)):
                add(tar, f"{each:07}.jpg", contents[each % DIFFERENT])
                add(tar, f"{each:07}.json", json.dumps({"caption": f"picture number {each}"}).encode())
    return folder


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info: Any = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, BytesIO(content))


if __name__ == "__main__":
    main()
