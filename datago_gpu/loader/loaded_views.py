"""Makes the views of a Batch after the first, from what the feeder says about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.feeder import wire
from datago_gpu.imaging.geometry import Size
from datago_gpu.views import FurtherView

__all__ = ["absent_views", "further_views"]


def further_views(message: wire.EncodedBatch, kept: list[int], images: Sequence[Any]) -> list[FurtherView]:
    """Returns the views of the samples kept. images: of each view."""
    found, count = [], len(message.lengths)
    for column, image in zip(message.further_views, images, strict=True):
        crops = np.frombuffer(column.crops, np.float32).reshape(count, 4)[kept]
        flipped = np.frombuffer(column.flipped, np.bool_)[kept] if column.flipped else np.zeros(len(kept), np.bool_)
        found.append(FurtherView(image, crops, flipped, _sizes(column.bucket, len(kept))))
    return found


def absent_views(images: Sequence[tuple[Size, Any]], count: int) -> list[FurtherView]:
    """Returns the views of samples of which nothing is shown. images: (height, width) and gray images of each view."""
    nothing = np.zeros((count, 4), np.float32), np.zeros(count, np.bool_)
    return [FurtherView(image, *nothing, _sizes(size, count)) for size, image in images]


def _sizes(bucket: Size, count: int) -> NDArray[np.int32]:
    return np.tile(np.array(bucket, np.int32), (count, 1))
