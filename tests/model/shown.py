"""Part 8 of the model: which region of a picture is shown, and whether the picture is mirrored."""

from __future__ import annotations

from hashlib import blake2b
from random import Random

from datago_gpu.config import ImageConfig
from tests.support.resized_crop import resized_crop

__all__ = ["Shown", "shown_of"]

Shown = tuple[tuple[float, float, float, float], bool]
"""(top, left, height, width) in pixels of the picture, and whether mirrored."""


def shown_of(
    image: ImageConfig, key: tuple[int, int, str, int], size: tuple[int, int], target: tuple[int, int]
) -> Shown:
    """image: the settings of the view. key: seed, epoch of the sample, id, number of the view. target: the size of its
    pixels."""
    seed, epoch, name, view = key
    digest = blake2b(f"{seed} {epoch} {view} {name}".encode(), digest_size=16).digest()
    draw = Random(int.from_bytes(digest, "little")).random
    flipped = draw() < image.flip
    height, width = size
    if not image.crop_and_resize:
        return (0, 0, height, width), flipped
    shape = target[1] / target[0]
    if image.crop == "random_resized":
        ratio = (image.crop_aspect[0] * shape, image.crop_aspect[1] * shape)
        region = resized_crop(
            height,
            width,
            image.crop_scale,
            ratio,
            lambda low, high: low + draw() * (high - low),
            lambda count: int(draw() * count),
        )
        return region, flipped
    high, wide = min(height, width / shape), min(width, height * shape)
    down, across = (draw(), draw()) if image.crop == "random" else (0.5, 0.5)
    return (down * (height - high), across * (width - wide), high, wide), flipped
