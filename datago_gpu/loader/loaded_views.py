"""Makes the views of a Batch after the first, from what the feeder says about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.feeder import wire
from datago_gpu.imaging.geometry import Size
from datago_gpu.views import FurtherView, sizes_of

__all__ = ["absent_views", "flipped_of", "further_views"]


def further_views(message: wire.EncodedBatch, kept: list[int], images: Sequence[Any]) -> list[FurtherView]:
    """Returns the views of the samples kept. images: of each view."""
    found, count = [], len(message.lengths)
    for column, image in zip(message.further_views, images, strict=True):
        crops = np.frombuffer(column.crops, np.float32).reshape(count, 4)[kept]
        found.append(FurtherView(image, crops, flipped_of(column, kept), sizes_of(column.bucket, len(kept))))
    return found


def absent_views(images: Sequence[tuple[Size, Any]], count: int) -> list[FurtherView]:
    """Returns the views of samples of which nothing is shown. images: (height, width) and gray images of each view."""
    nothing = np.zeros((count, 4), np.float32), np.zeros(count, np.bool_)
    return [FurtherView(image, *nothing, sizes_of(size, count)) for size, image in images]


def flipped_of(view: wire.EncodedBatch | wire.ViewColumn, kept: list[int]) -> NDArray[np.bool_]:
    """Returns which of the samples kept are shown mirrored, (N,). view: the first one, or one after it."""
    return np.frombuffer(view.flipped, np.bool_)[kept] if view.flipped else np.zeros(len(kept), np.bool_)
