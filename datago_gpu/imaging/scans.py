"""Counts the scans of a JPEG. A progressive JPEG may have any number of scans, each of only a few bytes."""

from __future__ import annotations

import re

__all__ = ["MOST_SCANS", "count_scans"]

MOST_SCANS = 100
"""About ten are usual. Each is a pass over all pixels, 38 ms for 98 megapixels: 64 MB of scans would take 5 hours."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""The next marker, as libjpeg finds it. FF is no marker before 00 (pixels), D0 to D7 (within a scan) and FF (fill)."""

_END, _SCAN = 0xD9, 0xDA
_FIRST_WITH_LENGTH = 0xC0
_MOST_MARKERS = 10_000
"""A payload of 64 MB that has only tiny segments would take eight seconds."""


def count_scans(payload: bytes | memoryview) -> int:
    """Counts the scans of a JPEG. The result is never lower than the number of scans that libjpeg would decode.

    A result up to MOST_SCANS may be too high, because bytes that look like a scan may occur in a colour profile, in a
    preview or after the image. A result above MOST_SCANS is counted from marker to marker. Only if the payload has more
    than 10,000 markers is such a result an upper bound, too.
    """
    import numpy as np  # only progressive JPEGs need numpy: importing it above would delay the start of the feeder

    pairs = (np.frombuffer(payload, "<u2", (len(payload) - first) // 2, first) for first in (0, 1))
    most = sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)
    return most if most <= MOST_SCANS else _walk(payload, most)


def _walk(payload: bytes | memoryview, most: int) -> int:
    """Counts the scans from marker to marker up to the end of the image, and skips the content of segments.

    most: an upper bound, returned if the payload has more than 10,000 markers. Any other result is never lower than the
    number of scans that libjpeg would decode: no length is read after markers that have none for libjpeg.
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
