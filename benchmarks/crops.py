"""What random crops and flips cost, beside the centre crop and torch's DataLoader with torchvision v2.

    python -m benchmarks.crops [--pixels 500px] [--count 2000] [--batch-size 32] [--runs 5] [--python PYTHON]

Each run streams all local JPEGs, shuffled, to squares of 224 px: with the centre crop, with a random resized crop and
flips, both with Pillow, and with DataLoader and v2.RandomResizedCrop, a worker for each core. They alternate, so that
whatever else the machine does touches all of them. Prints, as the median and range of the runs, images a second behind
the first batch and the CPU time of all processes for an image (which other work changes less), and the ratios.
`make bench-peers` installs torch and torchvision; without them, the DataLoader is left out.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import machine, parser, spread, table
from benchmarks.in_turn import in_turn, medians, picture_options, pictures_of
from benchmarks.suite import peers
from datago_gpu import Loader

SIZE = 224
CENTRE, RANDOM, TORCH = "centre", "random_resized, flips", "DataLoader, torchvision v2"


def main() -> None:
    options = parser(__doc__ or "", runs=5)
    picture_options(options, 2000)
    options.add_argument("--python", default="", help="an interpreter that has torch and torchvision")
    args = options.parse_args()
    print(machine())
    folder = pictures_of(args)
    contestants: dict[str, Callable[[], Sequence[float]]] = {
        CENTRE: partial(run, folder, args.batch_size, {}),
        RANDOM: partial(run, folder, args.batch_size, {"crop": "random_resized", "flip": 0.5}),
    }
    peer = peers.find(peers.Peer("torch", "torch_v2", ("crops",)), {"torch_v2": args.python})
    if peer.missing:
        print(f"{TORCH} is left out: {peer.missing}")
    else:
        print(f"{TORCH}: {peer.versions}")
        contestants[TORCH] = partial(run_peer, peer, folder, args.batch_size, args.count)
    found = in_turn(args.runs, contestants)
    lines = [(name, *map(spread, figures)) for name, figures in found.items()]
    print("\n".join(table(["", "images/s", "us of CPU an image"], lines)))
    others = medians(found)
    ours, ours_cpu = others.pop(RANDOM)
    ratios = {name: (ours / rate, cpu / ours_cpu) for name, (rate, cpu) in others.items()}
    print()
    for name, (by_time, by_cpu) in ratios.items():
        print(f"- {RANDOM}: {by_time:.2f} of the images a second of {name}, {by_cpu:.2f} for the same CPU time")
    if args.json:
        args.json.write_text(json.dumps({RANDOM: (ours, ours_cpu), "others": others, "ratios": ratios}))


def run(folder: Path, batch_size: int, crop: dict[str, Any]) -> tuple[float, float]:
    """Images a second behind the first batch, and microseconds of CPU for an image, the start included."""
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(folder), "random_sampling": True},
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": SIZE,
            "min_aspect_ratio": 1.0,
            "max_aspect_ratio": 1.0,
            **crop,
        },
        "batch_size": batch_size,
    }
    spent = cpu_of_all()
    with Loader(config, device="cpu", backend="pillow") as loader:
        first = len(next(loader))
        clock = time.perf_counter()
        images = sum(map(len, loader))
        seconds = time.perf_counter() - clock
    return images / seconds, (cpu_of_all() - spent) / (first + images) * 1e6


def cpu_of_all() -> float:
    """Seconds of CPU of this process, and of the processes that it has started and that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def run_peer(peer: peers.Peer, folder: Path, batch_size: int, count: int) -> tuple[float, float]:
    """The same of a DataLoader."""
    spec = {"kind": "crops", "count": count, "size": SIZE, "batch": batch_size, "root": str(folder)}
    found = peers.run(peer, spec)
    return (found["images"] - batch_size) / (found["seconds"] - found["first_s"]), found["cpu_us"]


if __name__ == "__main__":
    main()
