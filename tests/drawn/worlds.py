"""Small data sets for the model test: the same pictures as a folder, as shards and as a Dataroom, some of them bad."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from datago_gpu.server import DataroomServer
from tests.drawn.pictures import BAD_NOTE, Picture, drawn_pictures
from tests.model import Item, Lost, Shard
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes
from tests.support.tables import write_table

__all__ = ["BREAKS", "TABLES", "WORLDS", "Broken", "World"]

Broken = tuple[int, str]
"""A shard that breaks on its way over HTTP: its number, and one of BREAKS."""

BREAKS = {
    "gone": "http-404",
    "failing": "http-500",
    "refused": "connection",
    "cut": "cut-short",
    "failing once": "",
    "cut once": "",
}
"""How a shard breaks -> what the rest of it is lost for. Nothing of it arrives, but of one that is "cut" all samples
but the last. What happens once costs nothing."""


@dataclass
class World:
    """A data set. faults: one for each picture. shards: how many pictures each holds. cut: a shard that breaks off.

    flaws: what goes with the pictures is bad for some of them.
    """

    name: str
    faults: tuple[str, ...]
    shards: tuple[int, ...]
    cut: int | None = None
    flaws: bool = True
    pictures: list[Picture] = field(init=False)
    root: Path = field(init=False)
    _room: DataroomServer | None = field(init=False, default=None)
    _web: MisbehavingServer | None = field(init=False, default=None)
    _nobody: socket.socket | None = field(init=False, default=None)
    """A port at which nobody listens."""

    def __post_init__(self) -> None:
        self.pictures = drawn_pictures(self.name, self.faults, flaws=self.flaws)

    def write(self, root: Path) -> None:
        """Write the folder, the shards, and the folder that the Dataroom serves."""
        self.root = root
        for picture in self.pictures:
            for folder in ("files", "room"):
                path = root / folder / picture.path
                path.parent.mkdir(parents=True, exist_ok=True)
                if picture.fault == "gone" and folder == "files":
                    path.symlink_to(root / "nowhere")
                elif picture.fault != "nameless":
                    path.write_bytes(picture.content)
            if picture.fault != "nameless":
                _write_sidecar(picture, root / "room")
                if picture.attributes is not None:
                    (root / "files" / picture.path).with_suffix(".json").write_bytes(picture.attributes)
        for name in TABLES:
            rows = {"path": [item.id for item in self.as_files()]}
            write_table(root / "tables" / name, rows, **({"row_group_size": 7} if name.endswith(".parquet") else {}))
        (root / "shards").mkdir()
        for number, pictures in enumerate(self._dealt()):
            content = tar_bytes(member for picture in pictures for member in _members(picture))
            if number == self.cut:
                content = content[: _middle_of_last(content, pictures)]
            (root / "shards" / f"{number}.tar").write_bytes(content)

    def close(self) -> None:
        """End the servers."""
        if self._room is not None:
            self._room.close()
        if self._web is not None:
            self._web.__exit__()
        if self._nobody is not None:
            self._nobody.close()

    @property
    def room(self) -> DataroomServer:
        """A Dataroom; started when somebody asks for it. What is "gone" goes once it is listed."""
        if self._room is None:
            self._room = DataroomServer(self.root / "room", watch_interval_s=None)
            self._room.start()
            # The server reads no sidecar that Python cannot hold, so these notes come into its index afterwards.
            self._room._index._database.execute(
                "UPDATE images SET attributes_json = replace(attributes_json, ?, ?)", (f'"{BAD_NOTE}"', BAD_NOTE)
            )
            for picture in self.pictures:
                if picture.fault == "gone":
                    (self.root / "room" / picture.path).unlink()
        return self._room

    def shard_addresses(self, broken: Broken | None) -> list[str]:
        """Over HTTP."""
        if self._web is None:
            self._web = MisbehavingServer()
            self._web.__enter__()
            self._nobody = socket.socket()
            self._nobody.bind(("127.0.0.1", 0))
        return [
            self._address(number, pictures, broken[1] if broken and broken[0] == number else "")
            for number, pictures in enumerate(self._dealt())
        ]

    def _address(self, number: int, pictures: list[Picture], how: str) -> str:
        assert self._web is not None
        assert self._nobody is not None
        if how == "refused":
            return f"http://127.0.0.1:{self._nobody.getsockname()[1]}/{number}.tar"
        content = (self.root / "shards" / f"{number}.tar").read_bytes()
        whole = Answer(200, content)
        cut = Answer(200, content, cut_after=_middle_of_last(content, pictures) if pictures else 0)
        answers = {
            "gone": [Answer(404)],
            "failing": [Answer(500)],
            "cut": [cut],
            "failing once": [Answer(500), whole],
            "cut once": [cut, whole],
        }.get(how, [whole])
        return self._web.script(f"/{how.replace(' ', '-') or 'whole'}/{number}.tar", *answers)

    def as_files(self) -> list[Item]:
        """In the order of a walk: the images of a folder, then its subfolders, each by name. Labels are those of the
        folders in the root."""
        there = [picture for picture in self.pictures if picture.fault != "nameless"]
        there.sort(
            key=lambda picture: [(part != picture.path.split("/")[-1], part) for part in picture.path.split("/")]
        )
        classes = sorted({picture.path.split("/")[0] for picture in self.pictures if picture.folder})
        return [
            replace(
                picture.item(picture.path), label=classes.index(picture.path.split("/")[0]) if picture.folder else None
            )
            for picture in there
        ]

    def as_room(self) -> list[Item]:
        """By id, which is the stem of the file's name."""
        there = sorted((picture for picture in self.pictures if picture.is_listed), key=lambda picture: picture.stem)
        return [picture.item(picture.stem, gone="http-404") for picture in there]

    def as_shards(self, broken: Broken | None) -> list[Shard]:
        """One of them may be broken."""
        found: list[Shard] = []
        for number, pictures in enumerate(self._dealt()):
            items: Shard = [picture.item(f"{picture.folder}{picture.stem}") for picture in pictures]
            reason = BREAKS[broken[1]] if broken and broken[0] == number else ""
            if reason and not (reason == "cut-short" and number == self.cut):  # which ends there anyway
                found.append([*(items[:-1] if reason == "cut-short" else []), Lost(reason)])
            else:
                found.append([*items[:-1], Lost("bad-shard")] if number == self.cut else items)
        return found

    def _dealt(self) -> Iterable[list[Picture]]:
        """The pictures of each shard: no link can be in one."""
        left = [picture for picture in self.pictures if picture.fault != "gone"]
        for count in self.shards:
            yield left[:count]
            left = left[count:]


def _write_sidecar(picture: Picture, root: Path) -> None:
    """What the Dataroom's server reads beside a picture, and the files that this names."""
    latents = []
    for each in picture.beside:
        name = f"{picture.stem}.{each.name}.png"
        (root / picture.path).with_name(name).write_bytes(each.content)
        latents.append({"latent_type": each.name, "file": name, "is_mask": each.name == "mask"})
    described = {"coca_embedding": picture.embedding or None, "latents": latents}
    described["attributes"] = {"note": picture.note} if picture.note else None
    (root / picture.path).with_suffix(".json").write_text(json.dumps(described))


def _members(picture: Picture) -> Iterable[tuple[str, bytes]]:
    """The files of a sample in a shard. The picture is the last of them."""
    key = f"{picture.folder}{picture.stem}"
    if picture.attributes is not None:
        yield f"{key}.json", picture.attributes
    for each in picture.beside:
        yield f"{key}.{each.name}", each.content
    yield f"{key}.{'text' if picture.fault == 'nameless' else picture.ending}", picture.content


def _middle_of_last(content: bytes, pictures: list[Picture]) -> int:
    """Where the content of the last picture begins, and 88 bytes more."""
    *_, (name, _) = _members(pictures[-1])
    return content.rindex(name.encode()) + 600


TABLES = ["files.arrow", "files.csv", "files.parquet"]
"""Tables of the paths of the files, in the order of a walk."""

_MIXED = (
    *("", "", "broken pixels", "", "cut short", "heavy", "", "heavy", "odd", "", "no image", "", "", "nameless"),
    *("heavy", "odd", "gone", "broken header", "", "heavy", "", "", "broken pixels", "odd", "empty", "heavy", ""),
)
_GONE = ("", "gone", "gone", "", "broken pixels", "gone", "", "gone", "gone", "gone", "", "gone", "gone")
WORLDS = {
    world.name: world
    for world in (
        World("mixed", _MIXED, shards=(5, 0, 9, 1, 4, 7), cut=4),
        World("good", ("",) * 11, shards=(4, 3, 4), flaws=False),
        World("bad", ("broken pixels", "no image", "cut short", "broken pixels", "nameless"), shards=(3, 2)),
        World("gone", _GONE, shards=(2, 1, 2)),
        World("one", ("",), shards=(1,), flaws=False),
    )
}
