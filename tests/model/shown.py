"""Part 8 of the model: which region of a picture is shown, and whether the picture is mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from itertools import count

from datago_gpu.config import ImageConfig
from tests.support.resized_crop import resized_crop

__all__ = ["Shown", "shown_of"]

Shown = tuple[tuple[float, float, float, float], bool]
"""(top, left, height, width) in pixels of the picture, and whether mirrored."""


def numbers(words: bytes) -> Iterator[float]:
    """Random numbers from 0 to 1: eight from each hash, the last one first."""
    for block in count():
        digest = blake2b(words, digest_size=64, salt=block.to_bytes(16, "little")).digest()
        for at in range(56, -1, -8):
            yield (int.from_bytes(digest[at : at + 8], "little") >> 11) / 2**53


def shown_of(
    image: ImageConfig, key: tuple[int, int, str, int], size: tuple[int, int], target: tuple[int, int]
) -> Shown:
    """image: the settings of the view. key: seed, epoch of the sample, id, number of the view. target: the size of its
    pixels."""
    seed, epoch, name, view = key
    draw = partial(next, numbers(f"{seed} {epoch} {view} {name}".encode()))
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
