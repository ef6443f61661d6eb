"""What several views of each image cost, beside a run for each view: DINO's two of 224 px and six of 96.

    python -m benchmarks.views [--pixels 500px] [--count 1000] [--batch-size 32] [--runs 5] [--backend pillow]

One run has all eight views. The others have one view, of 224 or of 96 px: decoding once for each view takes twice the
one time and six times the other. The runs alternate, so that whatever else the machine does touches all of them. Prints
the time for 1,000 images behind the first batch, the median and range of the runs, and the ratios.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import machine, number, parser, spread, table
from benchmarks.in_turn import in_turn, medians, picture_options, pictures_of
from datago_gpu import Loader

LARGE = {"default_image_size": 224, "crop": "random_resized", "crop_scale": (0.32, 1.0), "flip": 0.5}
SMALL = {"default_image_size": 96, "crop": "random_resized", "crop_scale": (0.05, 0.32), "flip": 0.5}
LARGES, SMALLS = 2, 6
TOGETHER, OF_224, OF_96 = "all eight views", "one view of 224 px", "one view of 96 px"


def main() -> None:
    options = parser(__doc__ or "", runs=5)
    picture_options(options, 1000)
    options.add_argument("--backend", choices=["pillow", "dali"], default="pillow", help="dali: on the CPU")
    args = options.parse_args()
    print(machine())
    folder = pictures_of(args)
    all_views: dict[str, Any] = {"views": [LARGE] * LARGES + [SMALL] * SMALLS}
    load = partial(run, folder, args.batch_size, args.backend)
    contestants = {TOGETHER: partial(load, all_views), OF_224: partial(load, LARGE), OF_96: partial(load, SMALL)}
    found = in_turn(args.runs, contestants)
    middle = {name: ms for name, (ms,) in medians(found).items()}
    apart = LARGES * middle[OF_224] + SMALLS * middle[OF_96]
    shown = [(name, spread(ms)) for name, (ms,) in found.items()]
    shown.append(("decoding once for each view", number(apart)))
    print("\n".join(table(["", "ms for 1,000 images"], shown)))
    ratios = {"apart": apart / middle[TOGETHER], "one view": middle[TOGETHER] / middle[OF_224]}
    print(f"\n{TOGETHER}: {ratios['apart']:.2f} times as fast as decoding once for each view, and "
          f"{ratios['one view']:.2f} times the time of one view of 224 px")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"ms for 1,000 images": middle, "ratios": ratios}))


def run(folder: Path, batch_size: int, backend: str, image: dict[str, Any]) -> tuple[float]:
    """Milliseconds for 1,000 images, behind the first batch."""
    square = {"crop_and_resize": True, "min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(folder), "random_sampling": True},
        "image_config": square | image,
        "batch_size": batch_size,
    }
    with Loader(config, device="cpu", backend=backend) as loader:
        next(loader)
        clock = time.perf_counter()
        images = sum(map(len, loader))
        seconds = time.perf_counter() - clock
    return (1e6 * seconds / images,)


if __name__ == "__main__":
    main()
