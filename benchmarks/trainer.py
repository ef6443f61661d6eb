"""Does a loader slow down the Python loop beside it? A training step alone, and next to a loader that streams.

    python -m benchmarks.trainer [--backend dali] [--concurrent 64]

The step makes 300 small calls that release and take the GIL (as launching GPU kernels does) and some Python between
them. The loader streams from a Dataroom server in a process of its own, at a rate held below what one core can do, so
that a core's worth of slack is left; the loop takes a batch a step. Prints the mean time of a step alone and beside it.

With --small-calls: another step, beside this loader, datago and processes that only burn CPU. See small_calls.py.
"""

from __future__ import annotations

import json
import statistics
import time
import zlib

from benchmarks import small_calls
from benchmarks.common import machine, material_folder, parser, spread, table
from benchmarks.material import make
from benchmarks.suite.servers import dataroom
from datago_gpu import Loader

CALLS = 300
BLOCK = bytes(8192)


def step() -> float:
    """Seconds of one step, a few milliseconds: checksums of blocks this large give the GIL away while they run."""
    clock = time.perf_counter()
    total = 0
    for number in range(CALLS):
        total += zlib.crc32(BLOCK, number)
    return time.perf_counter() - clock


def main() -> None:
    options = parser(__doc__ or "", runs=5)
    options.add_argument("--backend", default="dali", choices=("dali", "pillow"))
    options.add_argument("--steps", type=int, default=4000, help="steps of each run")
    options.add_argument("--rate", type=float, default=150, help="images a second, to leave a core's worth of slack")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--small-calls", action="store_true", help="see benchmarks/small_calls.py")
    options.add_argument("--pictures", type=int, default=500, help="different pictures")
    args = options.parse_args()
    if args.small_calls:
        small_calls.compare(args)
        return
    print(machine())
    folder = make(material_folder(args.material) / f"500px-{args.pictures}", args.pictures, "500px")
    alone, beside = [], []
    with dataroom(folder) as source:
        config = {
            "source_config": source,
            "image_config": {"crop_and_resize": True, "default_image_size": 224},
            "batch_size": args.batch_size,
            "epochs": None,
            "decode_config": {"threads": 1},
        }
        for _ in range(args.runs):
            alone.append(_measure(args.steps, None, 0))
            with Loader(config, device="cpu", backend=args.backend) as loader:
                _measure(args.steps // 4, loader, args.batch_size / args.rate)  # until the buffers are full
                beside.append(_measure(args.steps, loader, args.batch_size / args.rate))
    ratio = statistics.median(there / here for here, there in zip(alone, beside, strict=True))
    loader_is = f"beside the loader ({args.backend}, {args.rate:.0f} images/s)"
    rows = [(name, spread(1e3 * s for s in seconds)) for name, seconds in (("alone", alone), (loader_is, beside))]
    print("\n".join(table([f"a step of {CALLS} calls; {args.runs} runs of {args.steps} steps", "ms"], rows)))
    print(f"\nBeside the loader, a step takes {ratio:.3f} of its time alone (median of the runs).")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "alone_s": alone, "beside_s": beside}, indent=1))


def _measure(steps: int, loader: Loader | None, batch_every_s: float) -> float:
    """The mean seconds of a step; a batch is taken whenever it is due."""
    seconds, due = 0.0, time.perf_counter()
    for _ in range(steps):
        seconds += step()
        if loader is not None and time.perf_counter() >= due:
            next(loader)
            due += batch_every_s
    return seconds / steps


if __name__ == "__main__":
    main()
