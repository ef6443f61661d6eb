"""Multiplies colours of 16 bits by their alpha, and undoes that. Pillow and cykooz-resizer do so for 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["premultiply", "unpremultiply"]

_OPAQUE = 65535


def premultiply(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Multiplies colours by alpha, so that colours of transparent pixels count for nothing when pixels are mixed.

    pixels: (H, W, C); the last channel is alpha.
    """
    alpha = pixels[:, :, -1:].astype(np.int64)
    colours = (pixels[:, :, :-1] * alpha + _OPAQUE // 2) // _OPAQUE
    return np.concatenate([colours, alpha], axis=2).astype(np.uint16)


def unpremultiply(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Undoes the multiplication of colours by alpha. pixels: (H, W, C); the last channel is alpha."""
    alpha = pixels[:, :, -1:].astype(np.int64)
    colours = pixels[:, :, :-1].astype(np.int64) * _OPAQUE // np.maximum(alpha, 1)
    return np.concatenate([colours.clip(0, _OPAQUE), alpha], axis=2).astype(np.uint16)
