"""The samples of the soak: good ones of many kinds, and bad ones of which is known what becomes of them.

The same seed makes the same samples, in the server's process and in the one that checks what comes out.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.long.mutations import PHOTO, encodings
from tests.support.pictures import encode

__all__ = ["Item", "Part", "catalog"]

SHAPES = ((96, 96), (72, 108), (108, 72), (64, 128))
"""(height, width), each of a bucket of its own."""

GOOD_FILES = {
    "jpeg": "baseline.jpg", "progressive": "progressive.jpg", "png": "rgb.png", "webp": "lossy.webp",
    "exif": "baseline-444.jpg", "alpha": "alpha.png", "16-bit": "16-bit.png", "cmyk": "cmyk.jpg",
}  # fmt: skip
GOOD = ("jpeg",) * 10 + ("progressive", "png", "webp", "exif", "gif", "alpha", "16-bit", "cmyk")
"""From "exif" on they go through Pillow in the feeder, or are turned."""
BAD = {
    "missing": "http-404",
    "gone": "http-410",
    "html": "unknown-format",
    "empty": "empty",
    "cut jpeg": "undecodable",
    "damaged png": "undecodable",  # what only a decoder finds out
    "bomb": "too-many-pixels",
    "no address": "no-url",
    "odd entry": "bad-entry",
}
"""Kind of image -> why it is skipped."""
BAD_PARTS = {
    "mask missing": "http-404",
    "mask not listed": "no-mask",
    "mask damaged": "undecodable",
    "latent cut": "undecodable",
    "no embedding": "no-embedding",
}
"""What is wrong beside a good image -> why the sample is skipped where that is asked for."""
BAD_SHARE = 0.06


@dataclass(frozen=True)
class Part:
    """body: None is answered with 404. is_mask: else a latent."""

    name: str
    body: bytes | None
    is_mask: bool


@dataclass(frozen=True)
class Item:
    """One sample. status: of the answer for its image. reason: why it is skipped, or "".

    parts_reason: why it is skipped where mask, latent and embedding are asked for; `reason` counts as well.
    """

    id: str
    body: bytes
    status: int = 200
    reason: str = ""
    parts_reason: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    """What the listing says of it in place of the usual."""
    parts: tuple[Part, ...] = ()


def catalog(count: int, seed: int) -> list[Item]:
    """Samples in the order of their ids."""
    rng = random.Random(seed)
    return [_item(f"im-{number:06}", rng) for number in range(count)]


def _item(name: str, rng: random.Random) -> Item:
    shape, level = rng.choice(SHAPES), rng.randrange(8)
    bad = rng.choice([*BAD, *BAD_PARTS]) if rng.random() < BAD_SHARE else ""
    kind = bad if bad in BAD else rng.choice(GOOD)
    status = {"missing": 404, "gone": 410}.get(kind, 200)
    fields: dict[str, Any] = {}
    if rng.random() < 0.2:
        fields |= {"source": None, "tags": None, "attributes": None, "duplicate_state": None}
    if kind == "no address":
        fields["image_direct_url"] = None
    elif kind == "odd entry":
        fields["tags"] = "no list"
    if bad == "no embedding":
        fields["coca_embedding"] = None
    return Item(name, image(kind, shape, level), status, BAD.get(bad, ""), BAD.get(bad) or BAD_PARTS.get(bad, ""),
                fields, _parts(bad, shape, level, latent=rng.random() < 0.5))  # fmt: skip


def _parts(bad: str, shape: tuple[int, int], level: int, *, latent: bool) -> tuple[Part, ...]:
    mask = image("mask", shape, level)
    parts = [Part("seg", {"mask missing": None, "mask damaged": mask[:-30]}.get(bad, mask), is_mask=True)]
    if bad == "mask not listed":
        parts = []
    if latent or bad == "latent cut":
        parts.append(Part("vae", array(level)[: -9 if bad == "latent cut" else None], is_mask=False))
    return tuple(parts)


@cache
def array(level: int) -> bytes:
    """A latent as numpy saves it."""
    file = io.BytesIO()
    np.save(file, np.full((4, 8, 8), level, np.float16))
    return file.getvalue()


@cache
def image(kind: str, shape: tuple[int, int], level: int) -> bytes:
    """A payload; few of them are different, so that all stay in memory."""
    if kind in ("missing", "gone", "empty"):
        return b""
    if kind == "html":
        return b"<!doctype html><title>Sorry</title><h1>We are down for maintenance.</h1>"
    if kind == "bomb":
        header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        return b"\x89PNG\r\n\x1a\n" + chunk + bytes(200)
    files = _files(shape, level)
    if kind == "damaged png":
        whole = files["png"]
        pixels = whole.index(b"IDAT") + 4
        return whole[:pixels] + bytes(8) + whole[pixels + 8 :]
    return files["jpeg"][: len(files["jpeg"]) // 2] if kind == "cut jpeg" else files.get(kind, files["jpeg"])


@cache
def _files(shape: tuple[int, int], level: int) -> dict[str, bytes]:
    """The good files of a shape and a brightness, by kind."""
    photo = Image.open(PHOTO).convert("RGB").resize((shape[1], shape[0]))
    photo = photo.point([min(255, value + 8 * level) for value in range(256)] * 3)
    made = encodings(photo)
    files = {kind: made[name] for kind, name in GOOD_FILES.items()}
    mask = photo.convert("L").point(lambda value: value // 64)
    return files | {"gif": encode(photo.quantize(64), "GIF"), "mask": encode(mask)}
