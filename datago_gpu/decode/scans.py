"""Counts the scans of a JPEG. A progressive one may have any number of them, and needs hardly any bytes for each."""

from __future__ import annotations

__all__ = ["MOST_SCANS", "count_scans"]

MOST_SCANS = 100
"""Usual are about ten. Each is a pass over all pixels, 38 ms for 98 megapixels: 64 MB of them would take five hours."""


def count_scans(payload: bytes | memoryview) -> int:
    """How many scans begin in a JPEG, give or take those of a preview inside."""
    import numpy as np  # progressive JPEGs only need it: it would delay the start of the feeder

    pairs = (np.frombuffer(payload, "<u2", (len(payload) - first) // 2, first) for first in (0, 1))
    return sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)
