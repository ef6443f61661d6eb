"""What is loaded: pictures laid out as files, shards, a Dataroom or a large tree. Made once, and used again."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.material import make

__all__ = [
    "DATAROOM",
    "DISTANCES",
    "LOCAL",
    "MASK",
    "PAYLOADS",
    "SHARDS",
    "SMALL_BUFFER_MB",
    "Distance",
    "Workload",
    "lay_out_dataroom",
    "lay_out_payloads",
    "lay_out_shards",
    "lay_out_tree",
    "lay_out_workload",
    "named",
    "padded_jpeg",
    "warm",
]


@dataclass(frozen=True, slots=True)
class Workload:
    """One table of the report.

    kind: what contestants call it. pixels: of the originals, as material.py has it. size: of the pictures wanted.
    """

    name: str
    title: str
    kind: str
    pixels: str
    size: int
    count: int

    def scaled(self, scale: float) -> int:
        """Pictures of a run of this share of the full one."""
        return max(round(self.count * scale), 32)


@dataclass(frozen=True, slots=True)
class Distance:
    """A network to load over."""

    name: str
    delay_ms: int
    loss: float

    def __str__(self) -> str:
        return f"{self.delay_ms} ms away" + (f", {self.loss:.0%} of the packets lost" if self.loss else "")


LOCAL = (
    Workload("500px-224", "files of 500 px to 224", "files", "500px", 224, 4000),
    Workload("2.5mp-512", "files of 2.5 MP to 512", "files", "2.5mp", 512, 1200),
    Workload("2.5mp-1024", "files of 2.5 MP to 1024", "files", "2.5mp", 1024, 600),
)
SHARDS = Workload("shards", "shards over HTTP, 500 px to 224", "shards", "500px", 224, 4000)
SMALL_BUFFER_MB = 32
"""A fifth of these shards: the reading ahead has to wait, as it has to with the default and a real data set."""
DISTANCES = (
    Distance("20ms", 20, 0.0),
    Distance("100ms", 100, 0.0),
    Distance("20ms-loss", 20, 0.01),
    Distance("100ms-loss", 100, 0.01),
)
PAYLOADS = {40: 60_000, 400: 12_000}
"""Kilobytes of a payload -> how many of them."""
DATAROOM = (
    Workload("dataroom", "a Dataroom list, 500 px to 224", "dataroom", "500px", 224, 4000),
    Workload("dataroom-masks", "a Dataroom list with masks, 500 px to 224", "dataroom", "500px", 224, 2000),
)

DISTINCT = {"500px": 1000, "2.5mp": 300}
"""Different pictures of each sort; more files than these are further names (hard links) of the same ones."""

SHARD_SAMPLES = 250
"""At the most. A shorter run has as many shards, so that as many can be open at once."""
SHARDS_AT_LEAST = 16
MASK = "segmentation"
DISTINCT_PAYLOADS, PAGE = 100, 500


def lay_out_workload(material: Path, pixels: str, count: int) -> Path:
    """A folder of so many pictures."""
    distinct = min(count, DISTINCT[pixels])
    originals = make(material / f"{pixels}-{distinct}", distinct, pixels)
    return named(originals, material / f"{pixels}-{count}-files", count)


def named(originals: Path, root: Path, count: int) -> Path:
    """A folder with so many names for the pictures of another."""
    done = root.with_name(f"{root.name}.complete")
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        files = sorted(originals.glob("*.jpg"))
        for number in range(count):
            os.link(files[number % len(files)], root / f"{number:07d}.jpg")
        done.touch()
    return root


def lay_out_shards(material: Path, pixels: str, count: int) -> tuple[Path, list[str]]:
    """Tar files of such pictures, and their names."""
    files = sorted(lay_out_workload(material, pixels, count).glob("*.jpg"))
    root = material / f"{pixels}-{count}-shards"
    size = max(1, min(SHARD_SAMPLES, count // SHARDS_AT_LEAST))
    shards = [files[begin : begin + size] for begin in range(0, count, size)]
    names = [f"train-{number:06d}.tar" for number in range(len(shards))]
    if not (root / names[-1]).exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for name, members in zip(names, shards, strict=True):
            with tarfile.open(root / "writing", "w") as tar:
                for member in members:
                    tar.add(member, member.name)
            (root / "writing").rename(root / name)
    return root, names


def lay_out_dataroom(material: Path, pixels: str, count: int, *, masks: bool) -> Path:
    """Pictures for the embedded server; each with a mask of its own size if wanted."""
    files = sorted(lay_out_workload(material, pixels, count).glob("*.jpg"))
    if not masks:
        return files[0].parent
    root = material / f"{pixels}-{count}-masks"
    if not (root / f"{files[-1].stem}.json").exists():
        shutil.rmtree(root, ignore_errors=True)
        (root / "masks").mkdir(parents=True)
        for number, file in enumerate(files):
            mask = root / "masks" / f"{number % DISTINCT[pixels]:07d}.png"
            if not mask.exists():
                with Image.open(file) as picture:
                    picture.convert("L").point(lambda level: 255 * (level > 128)).save(mask)
            os.link(file, root / file.name)
            latent = {"latent_type": MASK, "file": f"masks/{mask.name}", "is_mask": True}
            (root / f"{file.stem}.json").write_text(json.dumps({"latents": [latent]}))
    return root


def lay_out_tree(material: Path, count: int) -> Path:
    """So many files in folders of 1,000: hard links to one small picture for each folder."""
    root = material / f"tree-{count}"
    done = material / f"tree-{count}.complete"
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        for begin in range(0, count, 1000):
            folder = root / f"{begin // 1_000_000:03d}" / f"{begin // 1000 % 1000:03d}"
            folder.mkdir(parents=True)
            Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "0000000.jpg", quality=70)
            for number in range(1, min(1000, count - begin)):
                os.link(folder / "0000000.jpg", folder / f"{number:07d}.jpg")
        done.touch()
    return root


def lay_out_payloads(root: Path, size: int, count: int, url: str) -> list[str]:
    """JPEGs of so many bytes, and the pages of a Dataroom at `url` that names them; the addresses of the JPEGs."""
    shutil.rmtree(root / "pages", ignore_errors=True)  # those of another run name another port
    for name in ("payloads", "pages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    payload, urls = padded_jpeg(size), []
    for number in range(DISTINCT_PAYLOADS):
        (root / "payloads" / f"{number}.jpg").write_bytes(payload)
        urls.append(f"{url}/payloads/{number}.jpg")
    (root / "pages" / "end.json").write_text(json.dumps({"next": None, "results": []}))
    for page in range(-(-count // PAGE)):
        entries = [
            {"id": f"{number:09d}", "source": "nginx", "attributes": {"number": number}, "tags": [],
             "image_direct_url": urls[number % DISTINCT_PAYLOADS]}
            for number in range(page * PAGE, min(count, (page + 1) * PAGE))
        ]  # fmt: skip
        following = f"{url}/api/images/?cursor={page + 1}"
        (root / "pages" / f"page{page or ''}.json").write_text(json.dumps({"next": following, "results": entries}))
    return urls


def padded_jpeg(size: int) -> bytes:
    """A JPEG of exactly `size` bytes, filled up with comments."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((500, 375)).convert("RGB").save(file, "JPEG", quality=85)
    jpeg, missing = file.getvalue(), size - file.tell()
    comments = b""
    while missing > 0:
        part = min(missing, 60_000) if missing - 60_000 > 4 or missing <= 60_000 else missing - 10
        comments += b"\xff\xfe" + (part - 2).to_bytes(2, "big") + bytes(part - 4)
        missing -= part
    return jpeg[:2] + comments + jpeg[2:]


def warm(root: Path) -> None:
    """Have all files in the page cache."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                while file.read(2**20):
                    pass
