"""Pillow and DALI cut the same region and scale it the same way.

Two differences are known and stay. Where the filter reaches beyond the picture, DALI repeats the last pixel and
cykooz-resizer leaves it out. And where it overshoots 0 or 255 between its two passes, cykooz-resizer clips and DALI,
which computes in floating point, does not. Each makes 0.025 to 0.04% of the values of the photographs below differ by
more than 2; that cykooz-resizer also rounds between its passes never makes more than 1. With 16 bits, room on either
side and the edge repeated, it agrees with DALI to 1 everywhere, and a PNG takes 15 to 50% longer: not worth it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import datago_gpu
from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import Decoder
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.pillow import PillowDecoder
from datago_gpu.decoders.select import choose
from tests.support.pictures import batch, decode, difference, encode, picture

PHOTOS = Path(datago_gpu.__file__).parent / "photos"
CROP = ImageConfig(crop_and_resize=True)

Decoders = tuple[Decoder, Decoder]
Region = tuple[float, float, float, float]


@pytest.fixture
def both(device: str) -> Iterator[Decoders]:
    config = DecodeConfig(threads=1)
    decoders = PillowDecoder(CROP, config), make_decoder(choose(device, "dali"), CROP, config, 16)
    yield decoders
    for decoder in decoders:
        decoder.close()


def apart(both: Decoders, pixels: np.ndarray, region: Region, target: tuple[int, int]) -> np.ndarray:
    images = batch([encode(pixels, compress_level=1)], [pixels.shape[:2]], target, regions=[region])
    ours, theirs = (decode(decoder, images) for decoder in both)
    assert not ours.failures
    assert not theirs.failures
    return difference(ours.image, theirs.image)


NAMES = ["skyline", "cat", "heron", "spices"]
TARGETS = [(224, 224), (64, 128), (160, 96)]


def photograph(name: str) -> np.ndarray:
    return np.asarray(Image.open(PHOTOS / f"{name}.jpg").convert("RGB"))[:900, :900]


def cuts_of(photo: np.ndarray) -> list[Region]:
    height, width = photo.shape[:2]
    return [(0, 0, height, width), (height * 0.31, width * 0.17, height * 0.5, width * 0.5), (7.3, 9.9, 60, 60)]


def test_the_photographs_taken_together_differ_by_less_than_can_be_seen(both: Decoders) -> None:
    """The gate of the project: mean 0.5 and 99.9% of the values within 2 of 255, edges of the pictures included."""
    differences = [
        apart(both, photo, region, target).ravel()
        for photo in map(photograph, NAMES)
        for target in TARGETS
        for region in cuts_of(photo)
    ]
    together = np.concatenate(differences)
    assert together.mean() <= 0.5
    assert np.quantile(together, 0.999) <= 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", TARGETS)
def test_each_photograph_agrees(both: Decoders, name: str, target: tuple[int, int]) -> None:
    photo = photograph(name)
    soft = (40 + photo * np.float32(175 / 255)).astype(np.uint8)  # never overshoots
    for region in cuts_of(photo):
        as_it_is, softened = apart(both, photo, region, target), apart(both, soft, region, target)
        assert as_it_is.mean() <= 0.5
        assert softened.mean() <= 0.5
        assert np.quantile(inside(as_it_is, region, target), 0.999) <= 4
        assert inside(softened, region, target).max() <= 2


def inside(difference: np.ndarray, region: Region, target: tuple[int, int]) -> np.ndarray:
    """Without the margin that Lanczos3 computes from beyond the region's edges."""
    down, right = (math.ceil(3 * max(1, size / side)) for size, side in zip(target, region[2:], strict=True))
    return difference[:, down:-down, right:-right]


@st.composite
def cuts(draw: st.DrawFn, least: float = 1.0) -> tuple[tuple[int, int], Region, tuple[int, int]]:
    """An image's size, a region within it and a target, not scaled up by more than 8 unless from less than a pixel.

    least: pixels that the region has at the least, either way.
    """
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    high, wide = (max(least, draw(st.floats(0.05, 1)) * side) for side in (height, width))
    top, left = draw(st.floats(0, 1)) * (height - high), draw(st.floats(0, 1)) * (width - wide)
    target = tuple(draw(st.integers(8, max(8, min(160, int(8 * side))))) for side in (high, wide))
    return (height, width), (top, left, high, wide), target


@given(cut=cuts())
@example(cut=((1, 1), (0, 0, 1, 1), (32, 32)))
@example(cut=((1, 5000), (0, 0, 1, 5000), (32, 64)))
@example(cut=((5000, 1), (2499.5, 0, 1, 1), (32, 32)))
@example(cut=((300, 200), (0, 0, 300, 200), (300, 200)))
@example(cut=((301, 203), (100.3, 67.7, 200.7, 135.3), (64, 48)))  # a hair outside, in float32
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_agrees(both: Decoders, cut: tuple[tuple[int, int], Region, tuple[int, int]]) -> None:
    (height, width), region, target = cut
    difference = apart(both, picture(height, width), region, target)
    assert difference.mean() <= 2
    assert difference.max() <= 20
    assert inside(difference, region, target).max(initial=0) <= 2


@given(cut=cuts(least=0.0))
@example(cut=((2, 2), (0.0, 0.0, 0.125, 0.125), (8, 8)))
@example(cut=((2, 2), (1.9, 1.9, 0.1, 0.1), (8, 8)))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_of_less_than_a_pixel_agrees(
    both: Decoders, cut: tuple[tuple[int, int], Region, tuple[int, int]]
) -> None:
    """Scaled up 80 times in a corner, all of it is what lies beyond the picture's edge: a mean of 2.4 has been seen."""
    (height, width), region, target = cut
    difference = apart(both, picture(height, width), region, target)
    assert difference.mean() <= 3
    assert difference.max() <= 20
    assert inside(difference, region, target).max(initial=0) <= 2
