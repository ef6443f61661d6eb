"""What random crops and flips cost, beside the centre crop and torch's DataLoader with torchvision v2.

    python -m benchmarks.crops [--pixels 500px] [--count 2000] [--batch-size 32] [--runs 5] [--python PYTHON]

Each run streams all local JPEGs, shuffled, to squares of 224 px: with the centre crop, with a random resized crop and
flips, both with Pillow, and with DataLoader and v2.RandomResizedCrop, a worker for each core. They alternate, so that
whatever else the machine does touches all of them. Prints images a second behind the first batch, the median of the
runs, and the ratios. `make bench-peers` installs torch and torchvision; without them, the DataLoader is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import machine, number, parser, table
from benchmarks.in_turn import in_turn, picture_options, pictures_of
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
    medians = in_turn(args.runs, contestants)
    print("\n".join(table(["", "images/s"], [(name, number(rate)) for name, (rate,) in medians.items()])))
    ratios = {name: medians[RANDOM][0] / rate for name, (rate,) in medians.items() if name != RANDOM}
    for name, ratio in ratios.items():
        print(f"{RANDOM}: {ratio:.2f} of the images a second of {name}")
    if args.json:
        args.json.write_text(json.dumps({"images/s": medians, "ratios": ratios}))


def run(folder: Path, batch_size: int, crop: dict[str, Any]) -> tuple[float]:
    """Images a second behind the first batch."""
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
    with Loader(config, device="cpu", backend="pillow") as loader:
        next(loader)
        clock = time.perf_counter()
        images = sum(map(len, loader))
        seconds = time.perf_counter() - clock
    return (images / seconds,)


def run_peer(peer: peers.Peer, folder: Path, batch_size: int, count: int) -> tuple[float]:
    """The same of a DataLoader."""
    spec = {"kind": "crops", "count": count, "size": SIZE, "batch": batch_size, "root": str(folder)}
    found = peers.run(peer, spec)
    return ((found["images"] - batch_size) / (found["seconds"] - found["first_s"]),)


if __name__ == "__main__":
    main()
