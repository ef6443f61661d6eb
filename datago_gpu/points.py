"""Maps key points and boxes between original images and the pictures that a Loader makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cuts"]

_PAIR, _BOX = 2, 4


class Cuts:
    """Which region of its original each of N pictures shows.

    crops: (N, 4), top, left, height and width of the regions, in pixels of the originals. sizes: (N, 2), height and
    width of the pictures. flipped: (N,), which pictures are mirrored.
    """

    def __init__(self, crops: NDArray[Any], sizes: NDArray[Any], flipped: NDArray[np.bool_]) -> None:
        self._starts = crops[:, None, 1::-1].astype(np.float64)
        regions, shown = crops[:, None, :1:-1].astype(np.float64), sizes[:, None, ::-1].astype(np.float64)
        # A sample without an image shows nothing: its points stay as they are.
        self._scales = np.divide(shown, regions, out=np.ones_like(shown), where=(regions > 0) & (shown > 0))
        self._widths, self._flipped = shown[:, :, 0], flipped

    def to_pictures(self, points: Any) -> NDArray[Any]:
        """Maps points of the originals: (N, ..., 2), each (x, y), or boxes (N, ..., 4), each (x1, y1, x2, y2)."""
        given = self._check(points)
        pairs = (self._pairs(given) - self._starts) * self._scales
        self._mirror(pairs)
        return self._in_form(pairs, given)

    def to_originals(self, points: Any) -> NDArray[Any]:
        """Maps points or boxes of the pictures, in the same forms."""
        given = self._check(points)
        pairs = self._pairs(given)
        self._mirror(pairs)
        return self._in_form(pairs / self._scales + self._starts, given)

    def _check(self, points: Any) -> NDArray[Any]:
        given, count = np.asarray(points), len(self._flipped)
        if not given.shape or given.shape[0] != count:
            raise ValueError(f"points must have an entry for each of the {count} samples, got the shape {given.shape}")
        if given.size and given.shape[-1] not in (_PAIR, _BOX):
            raise ValueError(
                f"the last axis of points must hold (x, y), or (x1, y1, x2, y2) of a box, got the shape {given.shape}"
            )
        return given

    def _pairs(self, given: NDArray[Any]) -> NDArray[np.float64]:
        """Returns a copy of the points, (N, M, 2)."""
        return np.array(given, np.float64).reshape(len(self._flipped), given[0].size // _PAIR, _PAIR)

    def _mirror(self, pairs: NDArray[np.float64]) -> None:
        at = self._flipped
        pairs[at, :, 0] = self._widths[at] - pairs[at, :, 0]

    def _in_form(self, pairs: NDArray[np.float64], given: NDArray[Any]) -> NDArray[Any]:
        """Returns the points in the shape that was given. Of a box, x1 stays the left edge."""
        if given.size and given.shape[-1] == _BOX:
            corners = pairs.reshape(len(pairs), -1, 2, _PAIR)
            corners[self._flipped, :, :, 0] = corners[self._flipped, :, ::-1, 0]
        return pairs.reshape(given.shape).astype(np.result_type(given.dtype, np.float32), copy=False)
