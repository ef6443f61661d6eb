"""Does bad data cost only itself? Every file of Pillow's tests, and mutations of good files, between good neighbours.

    python -m tests.long.corpus [--mutations 5000] [--backend pillow dali] [--pillow-source FOLDER]

Each back end loads them on the CPU, in a process of its own. Gates: no crash, no hang, every neighbour delivered and
with the same pixels as ever; and of what Pillow opens as a picture, within the limit on pixels, 99% delivered. A gate
that fails is named, and the exit status is 1. Pillow's tests are those of the version installed, fetched with pip from
PyPI into the material folder. EPS is not counted: Pillow itself opens it only where Ghostscript is installed.
"""

from __future__ import annotations

import io
import json
import queue
import shutil
import subprocess
import sys
import tarfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.common import machine, material_folder, parser
from datago_gpu.config import DecodeConfig
from tests.long.mutations import good_files, mutations

STREAM = """
import json, logging, sys, zlib
import numpy as np
from datago_gpu import Loader

class Skips(logging.Handler):
    def emit(self, record):
        if not record.msg.startswith("skipped"):
            return
        error = record.args[0]
        print(json.dumps({"skipped": error.id, "reason": error.reason, "detail": error.detail}), flush=True)

log = logging.getLogger("datago_gpu")
log.setLevel(logging.DEBUG)
log.addHandler(Skips())
log.propagate = False
with Loader(sys.argv[1], device="cpu", backend=sys.argv[2]) as loader:
    for batch in loader:
        pixels = [zlib.crc32(np.ascontiguousarray(image)) for image in batch.image]
        print(json.dumps({"ids": batch.ids, "pixels": pixels}), flush=True)
"""
GOOD = "-good-"
SHARE = 0.99


@dataclass
class Run:
    """What one back end made of one folder."""

    delivered: dict[str, int] = field(default_factory=dict)
    """Name -> checksum of its pixels."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Name -> reason and detail."""
    crash: str = ""
    hang: bool = False

    def lost(self, names: Iterable[str]) -> list[str]:
        """Neighbours that did not come, or came with other pixels than most of their like."""
        neighbours = [name for name in names if GOOD in name]
        alike: dict[str, Counter[int]] = {}
        for name in neighbours:
            if name in self.delivered:
                alike.setdefault(name.rpartition(GOOD)[2], Counter())[self.delivered[name]] += 1
        usual = {kind: counts.most_common(1)[0][0] for kind, counts in alike.items()}
        return [n for n in neighbours if self.delivered.get(n) != usual.get(n.rpartition(GOOD)[2], -1)]


def settings(folder: Path, batch_size: int, *, whole: bool) -> dict[str, Any]:
    """To load a folder: one bucket, so that all sorts share each batch; or whole pictures, each of its own size."""
    sizes = {"default_image_size": 64, "downsampling_ratio": 16, "min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
    return {
        "source_type": "file",
        "source_config": {"root_path": str(folder)},
        "image_config": {"crop_and_resize": not whole, **sizes},
        "batch_size": batch_size,
    }


def stream(config: dict[str, Any], backend: str, hang_s: float) -> Run:
    """Load by these settings; a run that says nothing for `hang_s` seconds is ended."""
    run, lines = Run(), queue.Queue[str | None]()
    errors = Path(config["source_config"]["root_path"]).with_suffix(f".{backend}.stderr")
    command = [sys.executable, "-c", STREAM, json.dumps(config), backend]
    with (
        open(errors, "wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        try:
            while (line := lines.get(timeout=hang_s)) is not None:
                _note(run, json.loads(line))
            process.wait(hang_s)
        except (queue.Empty, subprocess.TimeoutExpired):
            run.hang = True
            process.kill()
    if process.returncode and not run.hang:
        run.crash = f"exit status {process.returncode}: {errors.read_bytes()[-500:].decode(errors='replace').strip()}"
    return run


def _read(pipe: Iterable[str], lines: queue.Queue[str | None]) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)


def _note(run: Run, message: dict[str, Any]) -> None:
    if "skipped" in message:
        run.skipped[str(message["skipped"])] = f"{message['reason']}: {message['detail']}"
    else:
        run.delivered.update(zip(message["ids"], message["pixels"], strict=True))


def with_neighbours(folder: Path, files: Iterable[tuple[str, bytes]]) -> dict[str, bool]:
    """Fill a folder with files, each followed by a good one. All are named .jpg: it is the header that counts.

    Returns the names, and of those that are not neighbours whether Pillow opens them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    good, opened = list(good_files().items()), dict[str, bool]()
    for number, (name, payload) in enumerate(files):
        kind, neighbour = good[number % len(good)]
        names = f"{number:05}-{name}.jpg", f"{number:05}{GOOD}{kind}.jpg"
        for each, content in zip(names, (payload, neighbour), strict=True):
            (folder / each).write_bytes(content)
        opened |= {names[0]: pillow_opens(payload), names[1]: True}
    return opened


def pillow_opens(payload: bytes) -> bool:
    """Whether it is a picture to Pillow, within our limit on pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(payload)) as image:
                if image.format == "EPS" or image.width * image.height > DecodeConfig().max_pixels:
                    return False
                image.convert("RGB")
        except Exception:  # Pillow's readers raise nearly anything
            return False
    return True


def pillow_tests(material: Path, given: Path | None) -> Iterator[tuple[str, bytes]]:
    """The files under Tests/images of Pillow's source archive, fetched if need be."""
    source = given or material / f"pillow-{version('pillow')}"
    if not source.exists():
        _fetch(material)
    images = source / "Tests" / "images"
    for path in sorted(images.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(images)).replace("/", "-"), path.read_bytes()


def _fetch(material: Path) -> None:
    material.mkdir(parents=True, exist_ok=True)
    wanted = ["--no-deps", "--no-binary", "pillow", f"pillow=={version('pillow')}", "--dest", str(material)]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True)
    with tarfile.open(next(material.glob(f"pillow-{version('pillow')}.tar.gz"))) as archive:
        archive.extractall(material, filter="data")


def judge(title: str, opened: dict[str, bool], run: Run) -> dict[str, object]:
    """Print one row's worth, and what is wrong with it; the figures."""
    own = [name for name in opened if GOOD not in name]
    wanted = [name for name in own if opened[name]]
    missing = [name for name in wanted if name not in run.delivered]
    silent = [name for name in opened if name not in run.delivered and name not in run.skipped]
    lost = run.lost(opened)
    share = 1 - len(missing) / max(len(wanted), 1)
    reasons = Counter(run.skipped[name].partition(":")[0] for name in own if name in run.skipped)
    failed = [
        gate
        for gate, fails in {
            f"crash ({run.crash})": bool(run.crash),
            "hang": run.hang,
            f"{len(lost)} neighbours lost or changed ({', '.join(lost[:5])})": bool(lost),
            f"{len(silent)} neither delivered nor skipped ({', '.join(silent[:5])})": bool(silent),
            f"share delivered {share:.2%}": share < SHARE,
        }.items()
        if fails
    ]
    delivered = sum(name in run.delivered for name in own)
    beyond = delivered - len(wanted) + len(missing)
    print(f"\n{title}: {len(own):,} files, {delivered:,} delivered, {dict(reasons.most_common())} skipped")
    print(f"  Pillow opens {len(wanted):,} of them, and of those {share:.2%} were delivered; not:")
    for name in missing[:20]:
        print(f"    {name}: {run.skipped.get(name, '(nothing was said)')[:200]}")
    print(f"  delivered that Pillow refuses: {beyond}; neighbours lost or changed: {len(lost)}")
    print(f"  crashes: {int(bool(run.crash))}; hangs: {int(run.hang)}")
    print(f"  {'FAILS: ' + '; '.join(failed) if failed else 'passes'}", flush=True)
    return {"title": title, "files": len(own), "delivered": delivered, "skipped": dict(reasons), "opened": len(wanted),
            "share": share, "missing": missing, "beyond": beyond, "failed": failed}  # fmt: skip


def main() -> int:
    options = parser(__doc__ or "", runs=1)
    options.add_argument("--mutations", type=int, default=5000)
    options.add_argument("--seed", type=int, default=0, help="of the mutations")
    options.add_argument("--files", type=int, help="only the first so many of Pillow's files; 0 fetches none")
    options.add_argument("--backend", nargs="+", choices=("pillow", "dali"), default=("pillow", "dali"))
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--whole", action="store_true", help="pictures of their own sizes, without crop_and_resize")
    options.add_argument("--pillow-source", type=Path, help="Pillow's source, unpacked; default: fetched")
    options.add_argument("--hang-s", type=float, default=60, help="seconds without a batch that count as a hang")
    args = options.parse_args()
    print(machine())
    material = material_folder(args.material)
    parts: dict[str, tuple[dict[str, bool], Path]] = {}
    if args.files != 0:
        files = list(pillow_tests(material, args.pillow_source))[: args.files]
        parts["Pillow's tests"] = with_neighbours(material / "corpus-pillow", files), material / "corpus-pillow"
    if args.mutations:
        folder = material / "corpus-mutations"
        parts["mutations"] = with_neighbours(folder, mutations(args.mutations, args.seed)), folder
    figures: list[dict[str, object]] = []
    for title, (opened, folder) in parts.items():
        config = settings(folder, args.batch_size, whole=args.whole)
        figures += [judge(f"{title}, {name}", opened, stream(config, name, args.hang_s)) for name in args.backend]
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1))
    return int(any(figure["failed"] for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
