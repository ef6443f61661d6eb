"""Images that a decoder should refuse, or get right, but never turn into rubbish; made from a good JPEG."""

from __future__ import annotations

import io
import random
import struct
from dataclasses import dataclass

from PIL import Image

__all__ = ["Bad", "bad_images"]


@dataclass(frozen=True, slots=True)
class Bad:
    """An image that is not as it should be.

    shown: what Pillow makes of the picture behind it, as far as it is known; None where there is no picture.
    """

    name: str
    payload: bytes
    size: tuple[int, int]
    """Height and width by the header; (1, 1) where there is none."""
    shown: Image.Image | None = None
    torn: bool = False
    """A part of the pixels is gone, and the end marker is there: each decoder fills the rest as it likes."""


def bad_images(jpeg: bytes) -> list[Bad]:
    """Every kind of bad image. jpeg: a baseline RGB JPEG of a photograph."""
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    size = (picture.height, picture.width)
    scan = jpeg.index(b"\xff\xda")
    middle = scan + (len(jpeg) - scan) // 2
    noise = random.Random(0).randbytes(4000)
    gray = Image.new("RGB", (64, 48), (128, 128, 128))
    return [
        Bad("empty", b"", (1, 1)),
        Bad("garbage", noise, (1, 1)),
        Bad("html", b"<html><body>404 Not Found</body></html>", (1, 1)),
        Bad("header only", jpeg[:scan], size),
        Bad("truncated", jpeg[:middle], size, picture),
        Bad("truncated, with an end marker", jpeg[:middle] + b"\xff\xd9", size, picture, torn=True),
        Bad("no pixels, with an end marker", jpeg[:scan] + b"\xff\xd9", size),
        Bad("no end marker", jpeg[:-2], size, picture),
        Bad("zeroed scan", jpeg[: middle - 500] + bytes(1000) + jpeg[middle + 500 :], size, torn=True),
        Bad("12 bits", _uniform_jpeg(48, 64, 12, lossless=False), (48, 64), gray),
        Bad("lossless", _uniform_jpeg(48, 64, 8, lossless=True), (48, 64), gray),
        Bad("lossless, 12 bits", _uniform_jpeg(48, 64, 12, lossless=True), (48, 64), gray),
        Bad("CMYK", _saved(picture.convert("CMYK")), size, picture),
        Bad("truncated PNG", _saved(picture.resize((64, 48)), "PNG")[:2000], (48, 64)),
    ]


def _saved(picture: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def _uniform_jpeg(height: int, width: int, precision: int, *, lossless: bool) -> bytes:
    """A mid-gray picture, 1 component: with one-bit codes for "no difference" all of its scan is zero bits.

    Pillow writes neither 12 bits nor the lossless process (ITU-T T.81, SOF1 and SOF3).
    """
    one_code = bytes([1] + [0] * 15) + b"\x00"  # a table with the single symbol 0, code "0"
    tables = _segment(0xC4, b"\x00" + one_code)
    if not lossless:
        tables += _segment(0xC4, b"\x10" + one_code) + _segment(0xDB, b"\x00" + bytes([1] * 64))
    frame = struct.pack(">BHHB", precision, height, width, 1) + b"\x01\x11\x00"
    # The scan's parameters: predictor 1 for lossless, all coefficients else.
    scan = b"\x01\x01\x00" + (b"\x01\x00\x00" if lossless else b"\x00\x3f\x00")
    bits = height * width if lossless else -(-height // 8) * -(-width // 8) * 2
    data = bytes(-(-bits // 8))
    return (
        b"\xff\xd8" + tables + _segment(0xC3 if lossless else 0xC1, frame) + _segment(0xDA, scan) + data + b"\xff\xd9"
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
