"""`make docker-check`: builds the images, runs the demo and the CPU benchmark in them, and prints sizes and times.

    python docker/check.py [--samples 4000] [--scale 0.1] [--runs 1] [--keep FOLDER]

With a Docker engine it is `docker build`, `docker run` and `docker compose`. Where there is none, buildah builds the
same Dockerfile on a Debian of debootstrap's, and runs the benchmark in one container, which then has the server, too;
that needs root. Figures land in docker/results. Exit status: 1 where something failed, 2 where neither way is open.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from engines import Buildah, Docker, Engine, Failed  # noqa: E402  (a script's own folder)

RESULTS = HERE / "results"
IN_IMAGE = """
import os, platform
from importlib.metadata import version
names = "datago-gpu", "nvidia-dali-cuda120", "cupy-cuda12x", "pillow", "numpy", "aiohttp", "pyarrow", "backports.zstd"
print(f"uid {os.getuid()}, Python {platform.python_version()},", ", ".join(f"{name} {version(name)}" for name in names))
from cupy.cuda import nvrtc
print("NVRTC, with which cupy compiles:", ".".join(map(str, nvrtc.getVersion())))
"""
LEFT_BEHIND = "for tool in gcc cc make pip; do if command -v $tool; then exit 1; fi; done; test ! -e /run/secrets/ca"


@contextmanager
def step(name: str) -> Iterator[None]:
    """Says what is done, and how long it took."""
    print(f"\n== {name}", flush=True)
    clock = time.monotonic()
    yield
    print(f"== {name}: {time.monotonic() - clock:.0f} s", flush=True)


def check(engine: Engine, settings: dict[str, str]) -> None:
    """All of it. Raises Failed."""
    print(f"{time.strftime('%Y-%m-%d')}, {engine.version()}, {cpu()}, {len(os.sched_getaffinity(0))} cores")
    with step("base"):
        engine.prepare()
    for target in ("runtime", "server", "bench"):
        with step(f"build {target}"):
            engine.build(target)
    for target in ("runtime", "bench"):
        print(f"size of {target}: {engine.size(target) / 1e6:,.0f} MB")
    with step("what is in the image"):
        engine.start("runtime", ["python", "-c", IN_IMAGE])
        engine.start("runtime", ["sh", "-c", LEFT_BEHIND])
    with step("demo"):
        engine.start("runtime", ["datago-gpu", "demo", "--out", "/results/demo.png"], RESULTS)
    with step("benchmark"):
        engine.benchmark(settings, RESULTS)
    examine()


def examine() -> None:
    """Did the mounted folder get what it should?"""
    server = json.loads((RESULTS / "server-cpu.json").read_text())
    peers = json.loads((RESULTS / "peers" / "figures.json").read_text())
    if not server["samples"] or server["skipped"] or not peers["tables"]:
        raise Failed(f"the figures in {RESULTS} are not whole")
    if not (RESULTS / "demo.png").stat().st_size:
        raise Failed("the demo drew nothing")
    strays = [str(path) for path in RESULTS.rglob("*") if path.name != ".gitignore" and path.stat().st_uid == 0]
    if strays:
        raise Failed(f"written by root: {', '.join(strays)}")
    print(f"\nfrom the server: {server['images_per_s']:,.0f} images/s; all figures are in {RESULTS}")


def cpu() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--samples", type=int, default=4000, help="pictures from the server")
    options.add_argument("--scale", type=float, default=0.1, help="share of the peers' pictures")
    options.add_argument("--runs", type=int, default=1, help="measured runs of each peer")
    options.add_argument("--keep", type=Path, help="buildah's storage: kept there, and used again")
    args = options.parse_args()
    refusal = Docker.refusal() and Buildah.refusal()
    if refusal:
        print(f"docker-check needs a Docker engine ({Docker.refusal()}), or buildah ({refusal})", file=sys.stderr)
        return 2
    storage = args.keep or Path(tempfile.mkdtemp(prefix="datago-gpu-docker-", dir="/var/tmp"))
    engine: Engine = Buildah(storage) if Docker.refusal() else Docker()
    settings = {"DATAROOM_API_KEY": secrets.token_hex(20), "BENCH_SAMPLES": str(args.samples),
                "BENCH_SCALE": str(args.scale), "BENCH_RUNS": str(args.runs)}  # fmt: skip
    clear(RESULTS)
    try:
        check(engine, settings)
    except Failed as problem:
        print(f"docker-check failed: {problem}", file=sys.stderr)
        return 1
    finally:
        engine.close()
        if args.keep is None:
            shutil.rmtree(storage)
    print("docker-check passed")
    return 0


def clear(folder: Path) -> None:
    """Figures of an earlier run would pass for this one's."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".gitignore":
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
