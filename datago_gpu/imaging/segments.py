"""Prepares JPEGs for Pillow: removes application segments that are shorter than Pillow expects."""

from __future__ import annotations

from struct import Struct

__all__ = ["without_short_segments"]

_SEGMENT = Struct(">BBH")
_APPLICATION = range(0xE0, 0xF0)
_SCAN = 0xDA
_MOST = 1000
_LEAST = {(0xE0, b"JFIF"): 7, (0xE2, b"ICC_PROFILE\0"): 14, (0xEE, b"Adobe"): 7}
"""Marker and first bytes of a segment -> number of bytes that Pillow reads. libjpeg ignores shorter segments."""


def without_short_segments(payload: bytes | memoryview) -> bytes | memoryview:
    """Removes the application segments of a JPEG for which Pillow would refuse the image."""
    view, pieces, at, kept = memoryview(payload), [], 2, 0
    for _ in range(_MOST):
        if at + 4 > len(view):
            break
        prefix, marker, length = _SEGMENT.unpack_from(view, at)
        if prefix != 0xFF or marker == _SCAN or length < 2:
            break
        end = at + 2 + length
        if marker in _APPLICATION and _is_short(marker, bytes(view[at + 4 : min(end, at + 18)])):
            pieces.append(view[kept:at])
            kept = end
        at = end
    return b"".join((*pieces, view[kept:])) if pieces else payload


def _is_short(marker: int, data: bytes) -> bool:
    """Returns whether Pillow would read beyond a segment. data: the first 14 bytes of the segment."""
    return any(marker == of and data.startswith(sign) and len(data) < least for (of, sign), least in _LEAST.items())
