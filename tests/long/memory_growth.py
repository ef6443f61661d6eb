"""Does memory stay flat? Streams many samples and prints the memory of the trainer's process and of the feeder.

    python -m tests.long.memory_growth [--samples 50000] [--backend pillow]

Both figures are the proportional set size (shared pages are counted by half each), so the arena counts once.
"""

from __future__ import annotations

import os
import sys
import time

import psutil

from benchmarks.common import machine, material_folder, parser
from benchmarks.material import make
from datago_gpu import Loader

WARM = 1000


def memory_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().pss) / 2**20


def main() -> int:
    options = parser(__doc__ or "", runs=1)
    options.add_argument("--samples", type=int, default=50_000)
    options.add_argument("--size", type=int, default=64, help="small pictures come out, so that many can pass")
    options.add_argument("--backend", default="pillow", choices=("dali", "pillow"))
    options.add_argument("--growth", type=float, default=0.05, help="the gate: growth after the first samples")
    args = options.parse_args()
    print(machine())
    folder = make(material_folder(args.material) / "500px-500", 500, "500px")
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(folder), "random_sampling": True},
        "image_config": {"crop_and_resize": True, "default_image_size": args.size, "downsampling_ratio": 16},
        "arena_mb": 128,
        "epochs": None,
        "limit": args.samples,
    }
    clock, seen, due, figures = time.perf_counter(), 0, WARM, []
    with Loader(config, device="cpu", backend=args.backend) as loader:
        for batch in loader:
            if not seen:
                print(f"first batch after {time.perf_counter() - clock:.2f} s")
            seen += len(batch)
            if seen >= due and args.samples - seen >= WARM:  # the feeder is ahead, and gone at the end
                ours, feeder = memory_mb(os.getpid()), memory_mb(loader.feeder_pid)
                figures.append(ours + feeder)
                print(f"  {seen:7,} samples: {ours:8.1f} MB here, {feeder:8.1f} MB in the feeder", flush=True)
                due += max(args.samples // 10, WARM)
    growth = max(figures[1:]) / figures[0] - 1
    print(f"growth after the first {WARM:,}: {growth:+.1%} (at most {args.growth:.0%})")
    return int(growth > args.growth)


if __name__ == "__main__":
    sys.exit(main())
