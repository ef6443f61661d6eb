"""Counts the scans of a JPEG. A progressive JPEG may have any number of them, and needs hardly any bytes for each."""

from __future__ import annotations

import re

__all__ = ["MOST_SCANS", "count_scans"]

MOST_SCANS = 100
"""Usual are about ten. Each is a pass over all pixels, 38 ms for 98 megapixels: 64 MB of them would take five hours."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""The next marker, as libjpeg finds it. Before 00 (pixels), D0 to D7 (within a scan) and FF (filling) FF is none."""

_END, _SCAN = 0xD9, 0xDA
_FIRST_WITH_LENGTH = 0xC0
_MOST_MARKERS = 10_000
"""A payload of tiny segments only, 64 MB of them, would take eight seconds to walk through."""


def count_scans(payload: bytes | memoryview) -> int:
    """Count the scans of a JPEG.

    The result is exact where it is above MOST_SCANS; below, it may be too high by what looks like a scan in a colour
    profile, a preview or the bytes behind the picture.
    """
    import numpy as np  # only progressive JPEGs need numpy: importing it above would delay the start of the feeder

    pairs = (np.frombuffer(payload, "<u2", (len(payload) - first) // 2, first) for first in (0, 1))
    most = sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)
    return most if most <= MOST_SCANS else _walk(payload, most)


def _walk(payload: bytes | memoryview, most: int) -> int:
    """Count the scans from marker to marker, past the content of segments, up to the end of the picture.

    most: the result where the payload has too many markers. Never less than what libjpeg would decode: a marker that
    has no length there is not believed to have one.
    """
    at, scans = 2, 0
    for _ in range(_MOST_MARKERS):
        found = _MARKER.search(payload, at)
        if found is None or payload[found.end() - 1] == _END:
            return scans
        marker, at = payload[found.end() - 1], found.end()
        scans += marker == _SCAN
        if marker >= _FIRST_WITH_LENGTH:
            at += max(2, int.from_bytes(payload[at : at + 2]))
    return most
