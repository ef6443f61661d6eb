"""The pictures of the model test, each with what goes with it. Some are bad, and some have bad things beside them.

Each picture, mask and further image has a colour of its own, so that a test sees whether pixels and ids belong
together.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from PIL import Image

from tests.model import Item, Piece
from tests.support.images import SHAPES

__all__ = ["BAD_NOTE", "Beside", "Picture", "drawn_pictures"]

_HEAVY = 16
"""How often a heavy picture is as wide and as high. It takes 450 KB or so: three of them pass each bound of 1 MiB."""

_ENDINGS = {"broken pixels": "png", "odd": "gif"}
_FORMATS = {"png": "PNG", "gif": "GIF", "jpg": "JPEG"}

BAD_NOTE = "1e999"
"""JSON that Python cannot hold."""

_REASONS = {
    "broken header": "unknown-format",
    "no image": "unknown-format",
    "cut short": "undecodable",
    "empty": "empty",
    "nameless": "no-image",
}
"""Fault -> what the feeder calls it. "broken pixels" is not among them: the decoder alone finds out."""


@dataclass(frozen=True)
class Beside:
    """A mask or a further image of a picture: "mask" or "image_other"."""

    name: str
    shape: tuple[int, int]
    color: int
    fault: str

    @cached_property
    def content(self) -> bytes:
        color = self.color if self.name == "mask" else (self.color, 200, 40)
        return _damaged(
            _encoded(Image.new("L" if self.name == "mask" else "RGB", self.shape[::-1], color), "png"), self.fault
        )

    @property
    def piece(self) -> Piece:
        reason = _REASONS.get(self.fault, "")
        return Piece(len(self.content), self.shape, self.color, reason, self.fault == "broken pixels")


@dataclass(frozen=True)
class Picture:
    """A sample of a data set.

    fault: "" for a good one; "heavy" for a large good one, "odd" for a good one that the feeder decodes; else what
    `_damaged` knows, "gone" for what is listed and cannot be had, or "nameless" for a sample of a shard without image.
    note: of its attributes; "" for a picture without any. Attributes with BAD_NOTE cannot be read.
    """

    stem: str
    folder: str
    color: int
    shape: tuple[int, int]
    """(height, width)"""
    fault: str = ""
    note: str = ""
    embedding: tuple[float, ...] = ()
    beside: tuple[Beside, ...] = field(default=())

    @property
    def ending(self) -> str:
        return _ENDINGS.get(self.fault, "jpg")

    @property
    def path(self) -> str:
        """Below the root."""
        return f"{self.folder}{self.stem}.{self.ending}"

    @cached_property
    def content(self) -> bytes:
        if self.fault == "heavy":
            return _encoded(Image.effect_noise(self.shape[::-1], 100).convert("RGB"), "jpg")
        image = Image.new("RGB", self.shape[::-1], (self.color, 80, 160))
        return _damaged(_encoded(image, self.ending), self.fault)

    @property
    def attributes(self) -> bytes | None:
        """JSON, as it lies in a shard. None for a picture without any."""
        if not self.note:
            return None
        return json.dumps({"note": self.note}, separators=(",", ":")).replace(f'"{BAD_NOTE}"', BAD_NOTE).encode()

    @property
    def is_listed(self) -> bool:
        """Whether the embedded server lists the picture: it reads headers."""
        return self.fault not in ("broken header", "no image", "empty", "nameless")

    def item(self, name: str, gone: str = "missing") -> Item:
        """The picture as the model knows it. name: as it is called in a source. gone: as a source calls what is."""
        flaw = "bad-attributes" if self.note == BAD_NOTE else ""
        return Item(
            name,
            self.shape,
            len(self.content),
            skipped=gone if self.fault == "gone" else _REASONS.get(self.fault, ""),
            is_lacking=self.fault == "nameless",
            is_undecodable=self.fault == "broken pixels",
            is_converted=self.fault == "odd",
            color=None if self.fault == "heavy" else self.color,
            attributes=(self.attributes or b"{}").decode() if not flaw else "{}",
            flaw=flaw,
            embedding=self.embedding,
            pieces={each.name: each.piece for each in self.beside},
        )


def drawn_pictures(name: str, faults: tuple[str, ...], *, flaws: bool) -> list[Picture]:
    """A picture for each fault. What goes with them depends on the name. flaws: some of that is bad."""
    random = Random(name)
    pictures = []
    for number, fault in enumerate(faults):
        high, wide = random.choice(SHAPES)
        shape = (high * _HEAVY, wide * _HEAVY) if fault == "heavy" else (high, wide)
        folder = random.choice(["", "a/", "a/b/", "c/"])
        color = number * 8 % 256
        beside = [
            Beside(kind, (high // 2, wide // 2), (color + 100) % 256, bad)
            for kind in ("mask", "image_other")
            if (bad := random.choice(["", "", "", None, *(["broken pixels", "no image", "empty"] if flaws else [])]))
            is not None
        ]
        numbers = random.choice([3, 3, 3, 3, 5, 0]) if flaws else 3
        note = random.choice(["", f"about {number}", *([BAD_NOTE] if flaws else [])])
        pictures.append(
            Picture(f"p{number:02}", folder, color, shape, fault, note, (float(number),) * numbers, tuple(beside))
        )
    return pictures


def _encoded(image: Image.Image, ending: str) -> bytes:
    out = io.BytesIO()
    image.save(out, _FORMATS[ending], quality=95)
    return out.getvalue()


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
