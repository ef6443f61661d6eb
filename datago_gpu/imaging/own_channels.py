"""Renders images with their own channels and bit depth: upright, cropped and scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from datago_gpu.imaging.allowance import Allowance, reserve
from datago_gpu.imaging.chunks import may_change_orientation_late
from datago_gpu.imaging.costs import decoding_bytes
from datago_gpu.imaging.deep import deep_pixels, is_deep
from datago_gpu.imaging.formats import exif_orientation, open_image
from datago_gpu.imaging.geometry import Region, Size
from datago_gpu.imaging.modes import own_mode
from datago_gpu.imaging.orientation import stored_cut, swap_size, upright_array
from datago_gpu.imaging.pixels import render_opened, translate_errors
from datago_gpu.imaging.scaling import scale_array

__all__ = ["is_rgb8", "own_header", "render_own"]


def is_rgb8(payload: bytes | memoryview, max_pixels: int) -> bool:
    """Returns whether the image itself is 8-bit RGB. Raises Rejected."""
    with translate_errors():
        return _is_rgb8(open_image(payload, max_pixels))


def _is_rgb8(image: ImageFile.ImageFile) -> bool:
    return own_mode(image) == "RGB" and not is_deep(image)


def own_header(payload: bytes, max_pixels: int, memory: Allowance | None = None) -> tuple[tuple[int, int], int] | None:
    """Returns (height, width) as displayed, and EXIF orientation, of an image that is not 8-bit RGB; else None.

    Decodes the pixels of a few kinds of images only, and reserves memory for them. Raises Rejected.
    """
    with translate_errors():
        image = open_image(payload, max_pixels)
        if _is_rgb8(image):
            return None
        if image.format == "TIFF" or (image.format == "PNG" and may_change_orientation_late(payload)):
            with reserve(memory, decoding_bytes(payload, image.height, image.width, own=True)):
                image.load()  # turns a TIFF, and reads the chunks after the pixels of a PNG
                header = _header(image)
                del image  # frees the pixels
            return header
        return _header(image)


def _header(image: ImageFile.ImageFile) -> tuple[Size, int]:
    """Returns (height, width) as displayed, and EXIF orientation."""
    orientation = exif_orientation(image)
    return swap_size((image.height, image.width), orientation), orientation


def render_own(
    payload: memoryview, region: Region, orientation: int, target: Size | None, *, draft: bool, max_pixels: int
) -> NDArray[Any]:
    """Decodes one image, upright: `region` scaled to `target`, or the whole image if `target` is None.

    Returns (H, W, C) with C = 1 (gray), 2, 3 or 4 (with alpha), uint8, or uint16 for an image of 16 bits per channel.
    See `pixels.render` for the arguments. Raises Rejected. Safe on any thread.
    """
    with translate_errors():
        image = open_image(payload, max_pixels)
        if is_deep(image):
            return _render_deep(deep_pixels(image), region, orientation, target)
        picture = render_opened(image, region, orientation, target, draft=draft, own=True)
        # A writable copy, three times as fast as np.array(picture), which copies in pieces of 64 KiB.
        flat = np.frombuffer(bytearray(picture.tobytes()), np.uint8)
        return flat.reshape(picture.height, picture.width, -1)


def _render_deep(
    pixels: NDArray[np.uint16], region: Region, orientation: int, target: Size | None
) -> NDArray[np.uint16]:
    box, size = stored_cut((region, target), orientation, (pixels.shape[0], pixels.shape[1]))
    if size is not None:
        pixels = scale_array(pixels, box, 1, size)
    return upright_array(pixels, orientation).copy()  # a writable array
