"""The fallback for images that DALI refuses: Pillow decodes them, and DALI gets their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from datago_gpu.decoders.decoder import EncodedImages
from datago_gpu.errors import Rejected
from datago_gpu.imaging.pixels import as_ppm, render

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
    payloads = list(images.payloads)
    changed = replace(
        images,
        payloads=payloads,
        sizes=images.sizes.copy(),
        regions=images.regions.copy(),
        orientations=images.orientations.copy(),
        rois=None if images.rois is None else images.rois.copy(),
    )
    for index, problem in refused.items():
        payload, region = images.payloads[index].data, images.regions[index].tolist()
        orientation, target = int(images.orientations[index]), images.target_of(index)
        try:
            pixels = render(payload, region, orientation, target, draft=False, max_pixels=max_pixels, mask=mask)
        except Rejected as final:
            failures[index] = f"DALI: {problem}; Pillow: {final.detail or final.reason}"
            continue
        payloads[index] = np.frombuffer(as_ppm(pixels), np.uint8)
        changed.sizes[index] = pixels.height, pixels.width
        changed.regions[index] = 0, 0, pixels.height, pixels.width
        changed.orientations[index] = 1
        if changed.rois is not None:
            changed.rois[index, :4] = 0, 0, pixels.height, pixels.width
    return changed, failures
