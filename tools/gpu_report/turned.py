"""Pictures that are stored turned, with an EXIF orientation that says how."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["STORED", "Turned", "turned"]

STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how an upright picture is turned to be stored with it. TIFF 6.0, tag Orientation."""


@dataclass(frozen=True, slots=True)
class Turned:
    """shown: the picture as it is to be seen. payloads: JPEGs of it, stored with orientation 1 to 8."""

    shown: NDArray[np.uint8]
    payloads: list[NDArray[np.uint8]]


def turned(height: int = 480, width: int = 640) -> Turned:
    """A picture whose corners differ, in all eight orientations."""
    shown = np.zeros((height, width, 3), np.uint8)
    shown[: height // 2] = (200, 40, 40)
    shown[:, : width // 4] = (30, 200, 60)
    shown[height * 5 // 8 :, width * 5 // 8 :] = (40, 60, 220)
    return Turned(shown, [_jpeg(shown, orientation) for orientation in range(1, 9)])


def _jpeg(shown: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    image, exif, file = Image.fromarray(shown), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored = image.transpose(STORED[orientation]) if orientation in STORED else image
    stored.save(file, "JPEG", quality=95, subsampling="4:2:0", exif=exif)
    return np.frombuffer(file.getvalue(), np.uint8)
