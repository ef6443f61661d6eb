"""What is loaded: pictures laid out as files, shards, a Dataroom or a large tree. Made once, and used again."""

from __future__ import annotations

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
    "SHARDS",
    "SMALL_BUFFER_MB",
    "Distance",
    "Workload",
    "lay_out_dataroom",
    "lay_out_shards",
    "lay_out_tree",
    "lay_out_workload",
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
        if not self.delay_ms:
            return "loopback"
        return f"{self.delay_ms} ms away" + (f", {self.loss:.0%} of the packets lost" if self.loss else "")


LOCAL = (
    Workload("500px-224", "files of 500 px to 224", "files", "500px", 224, 4000),
    Workload("2.5mp-512", "files of 2.5 MP to 512", "files", "2.5mp", 512, 1200),
    Workload("2.5mp-1024", "files of 2.5 MP to 1024", "files", "2.5mp", 1024, 1200),
)
SHARDS = Workload("shards", "shards over HTTP, 500 px to 224", "shards", "500px", 224, 4000)
SMALL_BUFFER_MB = 32
"""A fifth of these shards: the reading ahead has to wait, as it has to with the default and a real data set."""
DISTANCES = (
    Distance("near", 0, 0.0),
    Distance("20ms", 20, 0.0),
    Distance("100ms", 100, 0.0),
    Distance("20ms-loss", 20, 0.01),
    Distance("100ms-loss", 100, 0.01),
)
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


def lay_out_workload(material: Path, pixels: str, count: int) -> Path:
    """A folder of so many pictures."""
    distinct = min(count, DISTINCT[pixels])
    originals = make(material / f"{pixels}-{distinct}", distinct, pixels)
    root = material / f"{pixels}-{count}-files"
    done = material / f"{root.name}.complete"
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        names = sorted(originals.glob("*.jpg"))
        for number in range(count):
            os.link(names[number % distinct], root / f"{number:07d}.jpg")
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


def warm(root: Path) -> None:
    """Have all files in the page cache."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                while file.read(2**20):
                    pass
