"""How much memory it takes to decode a picture with Pillow, by its first bytes and its size.

Bytes a pixel, rounded up from the peaks that were measured for 65 kinds of files of 30 megapixels (Pillow 13.0): they
hold what the reader works in, the picture, its copies while it is converted, scaled and turned, and what comes out.
"""

from __future__ import annotations

import re

__all__ = ["MOST_A_PIXEL", "decoding_bytes"]

_SMALL = 4 * 1024 * 1024
"""Pixels of a JPEG up to which it is not looked for further scans."""
_PROGRESSIVE = re.compile(rb"\xff\xc2")
"""The marker, which does not occur among a JPEG's pixels."""
_COEFFICIENTS = 8
"""Of a progressive JPEG, in all of its pixels, however small it is decoded."""

_JPEG, _JPEG_WHOLE = 13, 15
_PNG, _PNG_WHOLE, _PNG_ALPHA, _PNG_DEEP = 9, 15, 15, 25
_PPM, _OTHERS = 16, 25
_OWN_DEEP = 33
"""Of pictures that keep more than 8 bits a channel."""
MOST_A_PIXEL = _OWN_DEEP


def decoding_bytes(
    payload: bytes | memoryview, height: int, width: int, *, divisor: int = 1, whole: bool = False, own: bool = False
) -> int:
    """About the most bytes that are taken at once, its own copies included.

    divisor: what a JPEG is divided by while it is decoded. whole: the picture is not scaled. own: it keeps its channels
    and its depth.
    """
    pixels = height * width
    return int(pixels * _bytes_a_pixel(payload, pixels, divisor, whole=whole, own=own)) + 2 * len(payload)


def _bytes_a_pixel(payload: bytes | memoryview, pixels: int, divisor: int, *, whole: bool, own: bool) -> float:
    head = bytes(payload[:26])
    if head.startswith(b"\xff\xd8"):
        if divisor == 1:
            return _JPEG_WHOLE if whole else _JPEG
        late = pixels > _SMALL and _PROGRESSIVE.search(payload)
        return _JPEG / divisor**2 + (_COEFFICIENTS if late else 0)
    if head.startswith(b"\x89PNG"):
        deep, colours = head[24:25] == b"\x10", head[25:26]
        if deep:
            return _OWN_DEEP if own else _PNG_DEEP
        if colours in (b"\x00", b"\x02"):
            return _PNG_WHOLE if whole else _PNG
        return _PNG_ALPHA
    if head[:1] == b"P" and not own:
        return _PPM
    return _OWN_DEEP if own and not head.startswith(b"RIFF") else _OTHERS
