"""Estimates the memory that Pillow needs to decode an image, from the first bytes and the size of the image.

The numbers are bytes per pixel, rounded up from peaks measured for 65 kinds of files of 30 megapixels (Pillow 13.0).
They include the reader's working memory, the image, its copies during conversion, scaling and turning, and the result.
"""

from __future__ import annotations

import re

__all__ = ["MOST_A_PIXEL", "decoding_bytes"]

_SMALL = 4 * 1024 * 1024
"""JPEGs of up to this many pixels are not searched for the progressive marker."""
_PROGRESSIVE = re.compile(rb"\xff\xc2")
"""The frame marker of a progressive JPEG. It cannot occur in the encoded pixels."""
_COEFFICIENTS = 8
"""Additional bytes per pixel of a progressive JPEG, for all of its pixels, even if it is decoded at a smaller size."""

_JPEG, _JPEG_WHOLE = 13, 15
_PNG, _PNG_WHOLE, _PNG_ALPHA, _PNG_DEEP = 9, 15, 15, 25
_PPM, _OTHERS = 16, 25
_OWN_DEEP = 33
"""For images that keep more than 8 bits per channel."""
MOST_A_PIXEL = _OWN_DEEP


def decoding_bytes(
    payload: bytes | memoryview, height: int, width: int, *, divisor: int = 1, whole: bool = False, own: bool = False
) -> int:
    """Returns the approximate peak memory in bytes, including copies of the payload.

    divisor: the factor by which the JPEG decoder reduces the image. whole: the image is not scaled.
    own: the image keeps its own channels and bit depth.
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
