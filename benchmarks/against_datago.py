"""The CPU fallback against datago, Photoroom's loader in Rust: the same files, sizes and aspect ratios, on all cores.

    python benchmarks/against_datago.py [--runs 3] [--json results.json]

Three workloads: JPEGs of 500 px to 224, of 2.5 megapixels to 512 and to 1024. Each contestant runs in a process of its
own, with the files in the page cache, and ends with every picture as a numpy array. The clock runs from making the
loader to the last picture. datago decodes with DATAGO_MAX_TASKS tasks; 8 was its best here.
"""

from __future__ import annotations

import json
from functools import partial

from common import Contest, contestant, machine, material_folder, parser
from material import make

OURS = """
import sys, time
from datago_gpu import Loader
root, size, limit, batch = sys.argv[1], *map(int, sys.argv[2:5])
config = {"source_type": "file", "source_config": {"root_path": root}, "batch_size": batch, "limit": limit,
          "epochs": None, "image_config": {"crop_and_resize": True, "default_image_size": size}}
clock = time.perf_counter()
with Loader(config, device="cpu", backend="pillow") as loader:
    count = sum(len(batch.image) for batch in loader)
    print(count / (time.perf_counter() - clock))
"""

DATAGO = """
import json, sys, time
from datago import DatagoClient
root, size, limit = sys.argv[1], *map(int, sys.argv[2:4])
image = {"crop_and_resize": True, "default_image_size": size, "downsampling_ratio": 32, "min_aspect_ratio": 0.5,
         "max_aspect_ratio": 2.0, "image_to_rgb8": True}
config = {"source_type": "file", "source_config": {"root_path": root}, "image_config": image, "limit": limit,
          "prefetch_buffer_size": 256, "samples_buffer_size": 256}
clock = time.perf_counter()
client = DatagoClient(json.dumps(config))
client.start()
count = 0
while count < limit and (sample := client.get_sample()) is not None:
    count += sample.image.get_payload().to_numpy_array().ndim == 3
print(count / (time.perf_counter() - clock))
client.stop()
"""

WORKLOADS = [
    ("500 px to 224", "500px", 224, 4000, 1.2),
    ("2.5 MP to 512", "2.5mp", 512, 400, 1.8),
    ("2.5 MP to 1024", "2.5mp", 1024, 400, 1.1),
]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--scale", type=float, default=1.0, help="share of the pictures, for a quick look")
    options.add_argument("--tasks", type=int, default=8, help="datago's DATAGO_MAX_TASKS")
    args = options.parse_args()
    print(machine())
    results = {}
    for title, pixels, size, full, target in WORKLOADS:
        count = max(int(full * args.scale), 16)
        folder = make(material_folder(args.material) / f"{pixels}-{count}", count, pixels)
        given = (str(folder), str(size), str(count), str(args.batch_size))
        contest = Contest(title, "images/s", args.runs)
        contest.hold({
            "datago_gpu (pillow)": partial(contestant, OURS, *given),
            "datago": partial(contestant, DATAGO, *given, environment={"DATAGO_MAX_TASKS": str(args.tasks)}),
        })  # fmt: skip
        contest.show()
        ratio = contest.ratio("datago_gpu (pillow)", "datago")
        print(f"  ratio {ratio:.2f} (target {target})")
        results[title] = {"figures": contest.figures, "ratio": ratio, "target": target}
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
