"""Puts several views of one image into one picture, so that a payload can hold all of them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from datago_gpu.imaging.geometry import Region

__all__ = ["stack_views"]


def stack_views(views: Sequence[Image.Image]) -> tuple[Image.Image, list[Region]]:
    """Returns a picture with the views below each other, and the region of each view in it.

    Decoders that scale such a region to the size of its view change no pixel: the scale is 1, and the region begins at
    a whole pixel. One view is returned as it is.
    """
    if len(views) == 1:
        return views[0], [(0.0, 0.0, float(views[0].height), float(views[0].width))]
    stacked = Image.new("RGB", (max(view.width for view in views), sum(view.height for view in views)))
    regions, top = [], 0
    for view in views:
        stacked.paste(view, (0, top))
        regions.append((float(top), 0.0, float(view.height), float(view.width)))
        top += view.height
    return stacked, regions
