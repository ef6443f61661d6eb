"""Makes gray images: what a batch in lockstep shows if none of its samples was good."""

from __future__ import annotations

from typing import Any

import numpy as np

from datago_gpu.config import ImageConfig
from datago_gpu.decoders.encode import Encoder
from datago_gpu.decoders.output_format import OutputFormat, makes_one_array
from datago_gpu.decoders.placement import Placer
from datago_gpu.imaging.geometry import Size

__all__ = ["GrayImages"]

_MID_GRAY = 128


class GrayImages:
    """Makes batches of mid-gray images, in the form that the settings name."""

    def __init__(self, image: ImageConfig) -> None:
        self._image = image

    def views(self, bucket: Size, count: int, placer: Placer) -> list[tuple[Size, Any]]:
        """Returns height and width of each view, and its images. bucket: of the first view."""
        sizes = [self._image.view_bucket(view, bucket) for view in range(self._image.view_count)]
        return [(size, self.make(size, count, placer)) for size in sizes]

    def make(self, size: Size, count: int, placer: Placer) -> Any:
        """Returns `count` images of this height and width, as `Batch.image` has them."""
        image, pixels = self._image, np.full((*size, 3), _MID_GRAY, np.uint8)
        if image.pre_encode_images:
            return [Encoder(image)(pixels)] * count
        form = OutputFormat(image)
        shown = form.empty(*size)
        form.write(pixels, shown)
        array = placer.finish(placer.begin([shown] * count))
        return array if makes_one_array(image, own=not image.image_to_rgb8) else [array[at] for at in range(count)]
