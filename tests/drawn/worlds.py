"""Small data sets for the model test: the same pictures as a folder, as shards and as a Dataroom, some of them bad.

Each picture has a colour of its own, so that a test sees whether pixels and ids belong together.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random

from PIL import Image

from datago_gpu.server import DataroomServer
from tests.images import SHAPES
from tests.model import Item, Lost, Shard
from tests.sources.shards import tar_bytes

__all__ = ["WORLDS", "Picture", "World"]

_HEAVY = 16
"""How often a heavy picture is as wide and as high. It takes 450 KB or so: three of them pass each bound of 1 MiB."""

_ENDINGS = {"broken pixels": "png", "odd": "gif"}


@dataclass(frozen=True)
class Picture:
    """A file of a data set.

    fault: "" for a good one; "heavy" for a large good one, "odd" for a good one that the feeder decodes; else what
    `_damaged` knows, "missing" for a link that leads nowhere, or "nameless" for a sample of a shard without an image.
    """

    stem: str
    folder: str
    color: int
    shape: tuple[int, int]
    """(height, width)"""
    fault: str = ""

    @property
    def ending(self) -> str:
        return _ENDINGS.get(self.fault, "jpg")

    @property
    def path(self) -> str:
        """Below the root."""
        return f"{self.folder}{self.stem}.{self.ending}"

    @cached_property
    def content(self) -> bytes:
        out = io.BytesIO()
        if self.fault == "heavy":
            Image.effect_noise(self.shape[::-1], 100).convert("RGB").save(out, "JPEG", quality=95)
            return out.getvalue()
        image = Image.new("RGB", self.shape[::-1], (self.color, 80, 160))
        image.save(out, {"png": "PNG", "gif": "GIF", "jpg": "JPEG"}[self.ending], quality=95)
        return _damaged(out.getvalue(), self.fault)

    @property
    def is_listed(self) -> bool:
        """Whether the embedded server lists the picture: it reads headers."""
        return self.fault not in ("broken header", "no image", "empty", "missing")

    def item(self, name: str) -> Item:
        """The picture as the model knows it, under the name that it has in a source."""
        size = 0 if self.fault == "missing" else len(self.content)
        reason = _REASONS.get(self.fault, "")
        return Item(
            name,
            self.shape,
            size,
            skipped=reason,
            is_undecodable=self.fault == "broken pixels",
            is_converted=self.fault == "odd",
            color=None if self.fault == "heavy" else self.color,
        )


_REASONS = {
    "broken header": "unknown-format",
    "no image": "unknown-format",
    "cut short": "undecodable",
    "empty": "empty",
    "missing": "missing",
    "nameless": "no-image",
}
"""Fault -> what the feeder calls it. "broken pixels" is not among them: the decoder alone finds out."""


def _damaged(content: bytes, fault: str) -> bytes:
    if fault == "broken header":
        return content[:2] + bytes(200)
    if fault == "no image":
        return b"This is a text."
    if fault == "cut short":
        return content[:-30]
    if fault == "empty":
        return b""
    if fault == "broken pixels":
        at = content.index(b"IDAT") + 8
        return content[:at] + b"\xff" * 8 + content[at + 8 :]
    return content


@dataclass
class World:
    """A data set. faults: one for each picture. shards: how many pictures each holds. cut: a shard that breaks off."""

    name: str
    faults: tuple[str, ...]
    shards: tuple[int, ...]
    cut: int | None = None
    pictures: list[Picture] = field(init=False)
    root: Path = field(init=False)
    _server: DataroomServer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        random = Random(self.name)
        folders = ["", "a/", "a/b/", "c/"]
        self.pictures = []
        for number, fault in enumerate(self.faults):
            high, wide = random.choice(SHAPES)
            shape = (high * _HEAVY, wide * _HEAVY) if fault == "heavy" else (high, wide)
            self.pictures.append(Picture(f"p{number:02}", random.choice(folders), number * 8 % 256, shape, fault))

    def write(self, root: Path) -> None:
        """Write files and shards."""
        self.root = root
        for picture in self.pictures:
            path = root / "files" / picture.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if picture.fault == "missing":
                path.symlink_to(root / "nowhere")
            elif picture.fault != "nameless":
                path.write_bytes(picture.content)
        (root / "shards").mkdir()
        for number, pictures in enumerate(self._dealt()):
            content = tar_bytes((_member(picture), picture.content) for picture in pictures)
            if number == self.cut:
                content = content[: content.rindex(_member(pictures[-1]).encode()) + 600]
            (root / "shards" / f"{number}.tar").write_bytes(content)

    @property
    def server(self) -> DataroomServer:
        """Serves the files; started when somebody asks for it."""
        if self._server is None:
            self._server = DataroomServer(self.root / "files", watch_interval_s=None)
            self._server.start()
        return self._server

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def as_files(self) -> list[Item]:
        """In the order of a walk: the images of a folder, then its subfolders, each by name."""
        there = [picture for picture in self.pictures if picture.fault != "nameless"]
        there.sort(
            key=lambda picture: [(part != picture.path.split("/")[-1], part) for part in picture.path.split("/")]
        )
        return [picture.item(picture.path) for picture in there]

    def as_dataroom(self) -> list[Item]:
        """By id, which is the stem of the file's name."""
        there = [picture for picture in self.pictures if picture.is_listed and picture.fault != "nameless"]
        return [picture.item(picture.stem) for picture in sorted(there, key=lambda picture: picture.stem)]

    def as_shards(self) -> list[Shard]:
        found: list[Shard] = []
        for number, pictures in enumerate(self._dealt()):
            items: Shard = [picture.item(f"{picture.folder}{picture.stem}") for picture in pictures]
            found.append([*items[:-1], Lost("bad-shard")] if number == self.cut else items)
        return found

    def _dealt(self) -> Iterable[list[Picture]]:
        """The pictures of each shard: no link can be in one."""
        left = [picture for picture in self.pictures if picture.fault != "missing"]
        for count in self.shards:
            yield left[:count]
            left = left[count:]


def _member(picture: Picture) -> str:
    return f"{picture.folder}{picture.stem}.{'txt' if picture.fault == 'nameless' else picture.ending}"


_MIXED = (
    *("", "", "broken pixels", "", "cut short", "heavy", "", "heavy", "odd", "", "no image", "", "", "nameless"),
    *("heavy", "odd", "missing", "broken header", "", "heavy", "", "", "broken pixels", "odd", "empty", "heavy", ""),
)
WORLDS = {
    world.name: world
    for world in (
        World("mixed", _MIXED, shards=(5, 0, 9, 1, 4, 7), cut=4),
        World("good", ("",) * 11, shards=(4, 3, 4)),
        World("bad", ("broken pixels", "no image", "cut short", "broken pixels", "nameless"), shards=(3, 2)),
        World("one", ("",), shards=(1,)),
    )
}
