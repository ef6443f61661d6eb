"""Converts the raw payloads of datago's first API to numpy arrays and PIL images, like datago's `polyglot.py`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["go_array_to_numpy", "go_array_to_pil_image", "uint8_array_to_numpy"]


def uint8_array_to_numpy(go_array: Any) -> NDArray[np.uint8]:
    """Converts an image payload to (H, W, C), or to its bytes if encoded (Channels is -1). Empty for no image."""
    flat = np.frombuffer(go_array.Data, np.uint8)
    return flat.reshape(go_array.Height, go_array.Width, go_array.Channels) if go_array.Channels > 0 else flat


def go_array_to_numpy(go_array: Any) -> NDArray[Any] | None:
    """Converts a latent payload to an array; None if it is empty or not an npy file."""
    try:
        array: NDArray[Any] = np.load(io.BytesIO(go_array.Data), allow_pickle=False)
    except (ValueError, EOFError):
        return None
    return array


def go_array_to_pil_image(go_array: Any) -> Image.Image | NDArray[np.uint8] | None:
    """Converts an image payload to a PIL image; to an array of its bytes if encoded; None for no image."""
    if not go_array.Data:
        return None
    pixels = uint8_array_to_numpy(go_array)
    if go_array.Channels <= 0:
        return pixels
    return Image.fromarray(pixels[:, :, 0] if go_array.Channels == 1 else pixels)
