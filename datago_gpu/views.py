"""`FurtherView`, what a view after the first shows, and what a Batch and a Sample tell about all of their views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FurtherView", "sizes_of", "with_rows"]


@dataclass(slots=True, eq=False)
class FurtherView:
    """A view after the first, of a batch. The fields are as those of a Batch with the same name. Of a Sample, each
    field holds what belongs to the sample."""

    image: Any
    crops: Any
    flipped: Any
    image_sizes: Any


def with_rows(views: list[FurtherView], rows: Any) -> list[FurtherView]:
    """Returns the views of some samples (a slice), or of one (an index)."""
    return [_with_rows(view, rows) for view in views]


def _with_rows(view: FurtherView, rows: Any) -> FurtherView:
    image = None if view.image is None else view.image[rows]
    return FurtherView(image, view.crops[rows], view.flipped[rows], view.image_sizes[rows])


def sizes_of(bucket: tuple[int, int], count: int) -> NDArray[np.int32]:
    """Returns height and width of each image of a bucket, (N, 2)."""
    return np.tile(np.array(bucket, np.int32), (count, 1))
