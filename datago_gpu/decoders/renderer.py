"""Decodes single images with Pillow, for the decoding threads and for the decode processes alike.

imaging/pixels.py renders one image; output_format.py writes the image into the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import EncodedImage
from datago_gpu.decoders.output_format import OutputFormat, kind_of
from datago_gpu.imaging.costs import MOST_A_PIXEL, decoding_bytes
from datago_gpu.imaging.labels import unpack_labels
from datago_gpu.imaging.own_channels import render_own
from datago_gpu.imaging.pixels import render_array, render_views
from datago_gpu.imaging.scaling import shrinkage

__all__ = ["Renderer", "is_small"]

_SMALL_SHARE = 8
"""Small images are not counted against the memory if all workers together need less than 1/8 of it."""


def is_small(pixels: int, workers: int, capacity: int) -> bool:
    """Returns whether the memory of an image needs no counting, which takes 5 us of 300.

    workers: threads or processes that decode at once. capacity: bytes of memory that they share.
    """
    return pixels * MOST_A_PIXEL * workers <= capacity // _SMALL_SHARE


class Renderer:
    """Decodes single images as the settings say. Safe on many threads at once.

    mask: "nearest" or "lanczos" for masks, which have one channel; "" for images.
    own: images and masks keep their own channels and bit depth. Masks that the feeder has decoded to numbers (see
        labels.py) are used as they are.
    """

    def __init__(self, image: ImageConfig, decode: DecodeConfig, mask: str, own: bool) -> None:
        self._decode, self._mask, self._own = decode, mask, own
        self._form = OutputFormat(image, mask=bool(mask))
        self._encoder = None
        if image.pre_encode_images:
            from datago_gpu.decoders.encode import Encoder

            self._encoder = Encoder(image, mask=bool(mask))

    @classmethod
    def of(cls, image: ImageConfig, decode: DecodeConfig, *, mask: bool) -> Renderer:
        """Makes the renderer for the images of a run, or for its masks."""
        return cls(image, decode, *kind_of(image, mask=mask))

    def bytes_needed(self, views: Sequence[EncodedImage]) -> int:
        """Returns about how much memory it takes to decode an image, of which these are the views."""
        image, draft = views[0], self._decode.draft and not self._mask
        divisor = min(shrinkage(view.region, view.target) if view.target and draft else 1 for view in views)
        whole = image.target is None
        return decoding_bytes(image.payload.data, *image.size, divisor=divisor, whole=whole, own=self._own)

    def __call__(self, image: EncodedImage, out: NDArray[Any] | None) -> NDArray[Any] | bytes:
        """Decodes one image, into `out` or into new memory. Raises Rejected."""
        payload, max_pixels = image.payload.data, self._decode.max_pixels
        region, orientation, target = image.region, image.orientation, image.target
        draft = self._decode.draft and not self._mask
        pixels: NDArray[Any]
        labels = unpack_labels(image.payload, *image.size) if self._mask else None
        if labels is not None:
            pixels = labels
        elif self._own:
            pixels = render_own(payload, region, orientation, target, draft=draft, max_pixels=max_pixels)
        else:
            pixels = render_array(
                payload, region, orientation, target, draft=draft, max_pixels=max_pixels, mask=self._mask
            )
        return self._finish(pixels, out, flipped=image.flipped)

    def render_views(self, views: Sequence[EncodedImage], outs: Sequence[NDArray[Any] | None]) -> list[Any]:
        """Decodes one image, and writes each view of it into the array of the same number, or into new memory. Raises
        Rejected."""
        if len(views) == 1:
            return [self(views[0], outs[0])]
        cuts, image, limit = [(view.region, view.target) for view in views], views[0], self._decode.max_pixels
        found = render_views(image.payload.data, cuts, image.orientation, draft=self._decode.draft, max_pixels=limit)
        each = zip(found, outs, views, strict=True)
        return [self._finish(pixels, out, flipped=view.flipped) for pixels, out, view in each]

    def _finish(self, pixels: NDArray[Any], out: NDArray[Any] | None, *, flipped: bool) -> NDArray[Any] | bytes:
        """Mirrors one image if asked to, and puts it into its output format."""
        if flipped:
            pixels = pixels[:, ::-1]
        if self._encoder:
            return self._encoder(pixels)
        if self._own:
            return np.ascontiguousarray(pixels)
        out = self._form.empty(*pixels.shape[:2], least=pixels.dtype) if out is None else out
        self._form.write(pixels, out)
        return out
