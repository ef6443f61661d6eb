"""The fallback for images that DALI refuses: Pillow decodes them, and DALI gets their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.decoders.decoder import EncodedImages
from datago_gpu.errors import Rejected
from datago_gpu.imaging.atlas import stack_views
from datago_gpu.imaging.geometry import Region
from datago_gpu.imaging.pixels import Cut, as_ppm, render, render_views

__all__ = ["replace_refused"]


def replace_refused(
    images: EncodedImages, refused: Mapping[int, str], max_pixels: int, *, mask: str = ""
) -> tuple[EncodedImages, dict[int, str]]:
    """Replaces the refused images of a batch by PPMs, cropped and scaled to the batch's target.

    refused: index in the batch -> DALI's error. max_pixels: images with more are not decoded. mask: see `render`.
    Returns the batch (a new one if anything has changed) and the failures: index -> the errors of DALI and Pillow.
    """
    failures: dict[int, str] = {}
    if not refused:
        return images, failures
    payloads, sizes, orientations = list(images.payloads), images.sizes.copy(), images.orientations.copy()
    changed, *further = [_copy(view, payloads, sizes, orientations) for view in images.views]
    changed.further = further
    for index, problem in refused.items():
        try:
            pixels, regions = _render(images, index, max_pixels, mask)
        except Rejected as final:
            failures[index] = f"DALI: {problem}; Pillow: {final.detail or final.reason}"
            continue
        payloads[index] = np.frombuffer(as_ppm(pixels), np.uint8)
        sizes[index] = pixels.height, pixels.width
        orientations[index] = 1
        for view, (top, left, high, wide) in zip(changed.views, regions, strict=True):
            view.regions[index] = top, left, high, wide
            if view.rois is not None:
                view.rois[index, :4] = top, left, top + high, left + wide
    return changed, failures


def _copy(
    view: EncodedImages,
    payloads: list[NDArray[np.uint8]],
    sizes: NDArray[np.int32],
    orientations: NDArray[np.uint8],
) -> EncodedImages:
    """Returns a view of other pictures, with regions that may be changed."""
    rois = None if view.rois is None else view.rois.copy()
    regions = view.regions.copy()
    return replace(view, payloads=payloads, sizes=sizes, orientations=orientations, regions=regions, rois=rois)


def _render(images: EncodedImages, index: int, max_pixels: int, mask: str) -> tuple[Image.Image, list[Region]]:
    """Returns a picture of all views of an image, each cut and scaled, and their regions in it. Raises Rejected."""
    payload, orientation = images.payloads[index].data, int(images.orientations[index])
    cuts: list[Cut] = []
    for view in images.views:
        top, left, high, wide = view.regions[index].tolist()
        cuts.append(((top, left, high, wide), view.target_of(index)))
    if len(cuts) == 1:
        region, target = cuts[0]
        return stack_views(
            [render(payload, region, orientation, target, draft=False, max_pixels=max_pixels, mask=mask)]
        )
    return stack_views(
        list(map(Image.fromarray, render_views(payload, cuts, orientation, draft=False, max_pixels=max_pixels)))
    )
