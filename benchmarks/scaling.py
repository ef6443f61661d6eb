"""What one feeder and the trainer's thread sustain with more decode processes than this machine has cores.

    python -m benchmarks.scaling [--processes 4 8 16] [--sleep-ms 0.8] [--images 20000]

Decoding is replaced by a sleep of about the same length, so that the decode processes take nearly no CPU; all else is
as it is: files are read, checked, grouped and packed, batches are handed over. Prints images per second of the best
run, and the CPU time of the feeder and of the trainer's process. The trainer's is more than its GIL is held.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import machine, material_folder, number, parser, table
from benchmarks.material import make

SLEEPER = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "datago_gpu.feeder.decoding.worker":
            sys.meta_path.remove(self)
            import os, time
            from datago_gpu.decoders.renderer import Renderer
            seconds = float(os.environ["SLEEP_S"])
            def rest(self, image, out):
                time.sleep(seconds)
                return out
            Renderer.__call__ = rest
sys.meta_path.insert(0, Finder())
"""
"""Replaces the decoding in the decode processes, as the `sitecustomize` of their Python."""

RUN = """
import json, sys, time
from datago_gpu import Loader
root, processes, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
image = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 64}
image |= {"min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
config = {"source_type": "file", "source_config": {"root_path": root}, "image_config": image, "epochs": None}
config |= {"batch_size": 64, "samples_buffer_size": 256, "decode_config": {"processes": processes}}
with Loader(config, device="cpu", backend="pillow") as loader:
    for _ in range(count // 640 + 2):
        next(loader)  # until all processes have begun
    cpu, clock, feeder = time.process_time(), time.perf_counter(), loader.stats()
    taken = 0
    while taken < count:
        taken += len(next(loader))
    seconds, stats = time.perf_counter() - clock, loader.stats()
    feeder_s = stats.feeder_cores * stats.seconds - feeder.feeder_cores * feeder.seconds
    print(json.dumps([taken / seconds, feeder_s / seconds, (time.process_time() - cpu) / seconds]))
"""


def run(arguments: tuple[str, ...], environment: dict[str, str]) -> list[float]:
    """Returns images per second, and the cores that the feeder and the trainer's process use."""
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    options = parser(__doc__ or "", runs=1)
    options.add_argument("--processes", type=int, nargs="+", default=[4, 8, 16])
    options.add_argument("--sleep-ms", type=float, default=0.8, help="of each image; 500 px to 64 takes about 0.8")
    options.add_argument("--images", type=int, default=20_000)
    options.add_argument("--pictures", type=int, default=500, help="different pictures")
    args = options.parse_args()
    print(machine())
    root = make(material_folder(args.material) / f"500px-{args.pictures}", args.pictures, "500px")
    found: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(SLEEPER)
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"PYTHONPATH": path, "SLEEP_S": str(args.sleep_ms / 1000)}
        for count in args.processes:
            arguments = str(root), str(count), str(args.images)
            found[count] = max(run(arguments, environment) for _ in range(args.runs))
    header = [f"processes, each of which sleeps {args.sleep_ms} ms in place of decoding", "images/s",
              "feeder, us an image", "trainer's process, us an image"]  # fmt: skip
    rows = (
        [str(count), number(rate), number(feeder / rate * 1e6), number(trainer / rate * 1e6)]
        for count, (rate, feeder, trainer) in found.items()
    )
    print("\n".join(table(header, rows)))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "found": found}, indent=1))


if __name__ == "__main__":
    main()
