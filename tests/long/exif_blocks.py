"""EXIF blocks as cameras and programs write them, damaged ones made of them, and JPEGs that hold them.

The same seed makes the same blocks. What they are tried on is in odd_exif.py and in tests/decoders/test_exif.py.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

__all__ = ["damaged", "exif_segment", "good_blocks", "odd_files"]

Entry = tuple[int, int, int, bytes]
"""Tag, type, count and the bytes of the values."""

ORIENTATION, XMP_NAME = 0x0112, b"http://ns.adobe.com/xap/1.0/\0"


def block(order: str, entries: list[Entry], *, further: bytes = b"", first: int = 8) -> bytes:
    """A TIFF header, one directory at `first`, the values that do not fit into it, and further bytes."""
    kind = order + "H"
    head = (b"II" if order == "<" else b"MM") + struct.pack(kind, 42) + struct.pack(order + "I", first)
    directory, values = struct.pack(kind, len(entries)), b""
    at = first + 2 + 12 * len(entries) + 4
    for tag, type_, count, value in entries:
        directory += struct.pack(order + "HHI", tag, type_, count)
        if len(value) > 4:
            directory += struct.pack(order + "I", at + len(values))
            values += value + b"\0" * (len(value) % 2)
        else:
            directory += value.ljust(4, b"\0")
    return head.ljust(first, b"\0") + directory + bytes(4) + values + further


def good_blocks() -> list[bytes]:
    """Of each orientation from 2 to 8, in both byte orders: the orientation alone, a camera's, a program's."""
    blocks = []
    for orientation in range(2, 9):
        for order in "<>":
            turned = (ORIENTATION, 3, 1, struct.pack(order + "H", orientation))
            dots = struct.pack(order + "II", 72, 1)
            camera = [
                (0x010F, 2, 6, b"Maker\0"),
                (0x0110, 2, 16, b"A camera, mk. 2\0"),
                turned,
                (0x011A, 5, 1, dots),
                (0x011B, 5, 1, dots),
                (0x0128, 3, 1, struct.pack(order + "H", 2)),
                (0x0132, 2, 20, b"2024:05:06 07:08:09\0"),
                (0x0213, 3, 1, struct.pack(order + "H", 1)),
                (0x8769, 4, 1, struct.pack(order + "I", 230)),
            ]
            program = [
                (0x0100, 4, 1, struct.pack(order + "I", 6000)),
                (0x0102, 3, 3, struct.pack(order + "HHH", 8, 8, 8)),
                turned,
                (0x0131, 2, 11, b"A program 9\0"[:11]),
                (0x013E, 5, 2, dots * 2),
                (0x0211, 5, 3, dots * 3),
                (0x9C9B, 1, 8, "four".encode("utf-16-le")),
            ]
            blocks += [block(order, [turned]), block(order, camera, further=bytes(range(200)))]
            blocks += [block(order, program), block(order, camera[:3], first=20)]
    return blocks


def damaged(count: int, seed: int = 0) -> Iterator[bytes]:
    """Blocks of which 1 to 4 bytes, mostly early ones, have another value."""
    rng, good = random.Random(seed), good_blocks()
    for _ in range(count):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(len(data), rng.choice((30, 130, 130, 300))))
            data[at] = rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 0x2A, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        yield bytes(data)


def segment(data: bytes) -> bytes:
    """An APP1 segment of a JPEG."""
    return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data


def exif_segment(tiff: bytes) -> bytes:
    """A block as it stands in a JPEG."""
    return segment(b"Exif\0\0" + tiff)


def odd_files(jpeg: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names, and a good JPEG with damaged EXIF, or with several blocks, or with one at an odd place, or with XMP."""
    rng, good = random.Random(seed), good_blocks()
    scan, frame = jpeg.index(b"\xff\xda"), jpeg.index(b"\xff\xc0")
    for number, tiff in enumerate(damaged(count, seed)):
        one, two = exif_segment(rng.choice(good)), exif_segment(rng.choice(good))
        bad = exif_segment(tiff)
        xmp = segment(XMP_NAME + f'<x tiff:Orientation="{rng.randrange(10)}"/>'.encode())
        kind, early, middle, late = rng.choice([
            *[("damaged", bad, b"", b"")] * 5,
            ("two", one + two, b"", b""), ("three", one + two + one, b"", b""), ("early-and-late", one, b"", two),
            ("damaged-and-good", bad + two, b"", b""), ("good-and-damaged", one + bad, b"", b""),
            ("empty-first", exif_segment(b"") + two, b"", b""), ("before-frame", b"", bad, b""),
            ("before-scan", b"", b"", one), ("xmp", xmp, b"", b""), ("damaged-and-xmp", bad + xmp, b"", b""),
            ("xmp-and-exif", xmp + one, b"", b""), ("prefix-twice", exif_segment(b"Exif\0\0" + one[10:]), b"", b""),
        ])  # fmt: skip
        yield f"{number:05}-{kind}", jpeg[:2] + early + jpeg[2:frame] + middle + jpeg[frame:scan] + late + jpeg[scan:]
