"""Good JPEG, PNG and WebP files, and bad ones made of them: bits flipped, parts cut and spliced, headers edited.

The same seed makes the same files. What a mutation is tried on is in corpus.py and in tests/test_bad_data.py.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

import datago_gpu
from tests.support.pictures import encode

__all__ = ["PHOTO", "encodings", "good_files", "mutations"]

PHOTO = Path(datago_gpu.__file__).parent / "photos" / "cat.jpg"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD = 700
"""Bytes from the start that hold the headers of the files below."""


def good_files(side: int = 160) -> dict[str, bytes]:
    """Encodings of one photograph; its longer side in pixels."""
    photo = Image.open(PHOTO).convert("RGB")
    photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encodings(photo)


def encodings(photo: Image.Image) -> dict[str, bytes]:
    """A photograph in the kinds of JPEG, PNG and WebP that are met."""
    clear = photo.copy()
    clear.putalpha(Image.radial_gradient("L").resize(photo.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "baseline.jpg": encode(photo, "JPEG", quality=85),
        "baseline-444.jpg": encode(photo, "JPEG", quality=95, subsampling=0, exif=exif),
        "restart.jpg": encode(photo, "JPEG", restart_marker_blocks=5),
        "progressive.jpg": encode(photo, "JPEG", progressive=True),
        "gray.jpg": encode(photo.convert("L"), "JPEG"),
        "cmyk.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "rgb.png": encode(photo, "PNG"),
        "gray.png": encode(photo.convert("L"), "PNG"),
        "palette.png": encode(photo.quantize(64), "PNG"),
        "alpha.png": encode(clear, "PNG"),
        "16-bit.png": encode(photo.convert("I;16"), "PNG"),
        "lossy.webp": encode(photo, "WEBP", quality=80),
        "lossless.webp": encode(photo, "WEBP", lossless=True),
        "alpha.webp": encode(clear, "WEBP"),
        "animated.webp": encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(180)]),
    }


def mutations(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names, which say what was done to which file, and the bytes."""
    rng, good = random.Random(seed), good_files()
    names, kinds = list(good), list(KINDS)
    for number in range(count):
        name, kind = names[number % len(names)], rng.choice(kinds)
        payload = KINDS[kind](rng, bytearray(good[name]), good[rng.choice(names)])
        if name.endswith(".png") and rng.random() < 0.7:
            payload = _with_checksums(payload)  # else nearly all would end at the checksum
        yield f"{number:05}-{kind}-{name}", bytes(payload)


def _flip(rng: random.Random, data: bytearray, _other: bytes) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _edit_header(rng: random.Random, data: bytearray, _other: bytes) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 4))):
        data[rng.randrange(min(HEAD, len(data)))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return data


def _edit_size(rng: random.Random, data: bytearray, _other: bytes) -> bytearray:
    """Another height or width, where the format has them."""
    value = rng.choice((0, 1, 7, 100, 161, 300, 4000, 16383, 65500))
    if data.startswith(PNG_SIGNATURE):
        struct.pack_into(">I", data, rng.choice((16, 20)), value)
    elif data.startswith(b"RIFF"):
        struct.pack_into("<H", data, rng.choice((24, 26, 27, 28)), value)
    else:
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"), 0)
        struct.pack_into(">H", data, frame + rng.choice((5, 7)), value)
    return data


def _edit_length(rng: random.Random, data: bytearray, _other: bytes) -> bytearray:
    """Another length of a segment or chunk."""
    if data.startswith(PNG_SIGNATURE):
        at = rng.choice((8, data.find(b"IDAT") - 4))
        struct.pack_into(">I", data, at, rng.choice((0, 1, 12, 14, 2**31 - 1, 2**32 - 1)))
    elif data.startswith(b"RIFF"):
        struct.pack_into("<I", data, rng.choice((4, 16)), rng.choice((0, 1, 9, len(data), 2**31, 2**32 - 1)))
    else:
        markers = [at for at in range(2, len(data) - 4) if data[at] == 0xFF and data[at + 1] >= 0xC0]
        struct.pack_into(">H", data, rng.choice(markers) + 2, rng.choice((0, 1, 2, 3, 64, 0x7FFF, 0xFFFF)))
    return data


def _truncate(rng: random.Random, data: bytearray, _other: bytes) -> bytearray:
    cut = data[: rng.randrange(len(data))]
    if rng.random() < 0.5 and not data.startswith(PNG_SIGNATURE):
        cut += data[-2:]  # with an end marker it looks whole
    return cut


def _cut_out(rng: random.Random, data: bytearray, _other: bytes) -> bytearray:
    begin = rng.randrange(2, len(data))
    return data[:begin] + data[begin + rng.choice((1, 2, 16, 200, 3000)) :]


def _double(rng: random.Random, data: bytearray, _other: bytes) -> bytearray:
    begin, at = rng.randrange(len(data)), rng.randrange(2, len(data))
    return data[:at] + data[begin : begin + rng.choice((1, 4, 64, 2000))] + data[at:]


def _splice(rng: random.Random, data: bytearray, other: bytes) -> bytearray:
    return data[: rng.randrange(2, len(data))] + other[rng.randrange(len(other)) :]


def _put_in(rng: random.Random, data: bytearray, other: bytes) -> bytearray:
    """A part of another file over a part of this one."""
    at, begin, length = rng.randrange(2, len(data)), rng.randrange(len(other)), rng.choice((2, 10, 100, 1000))
    part = other[begin : begin + length]
    return data[:at] + part + data[at + len(part) :]


KINDS: dict[str, Callable[[random.Random, bytearray, bytes], bytearray]] = {
    "flipped": _flip,
    "header": _edit_header,
    "size": _edit_size,
    "length": _edit_length,
    "truncated": _truncate,
    "cut": _cut_out,
    "doubled": _double,
    "spliced": _splice,
    "overwritten": _put_in,
}


def _with_checksums(data: bytearray) -> bytearray:
    """Of each PNG chunk, made right."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data
