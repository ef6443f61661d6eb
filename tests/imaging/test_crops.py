"""Random regions: those of torchvision's RandomResizedCrop by a Kolmogorov-Smirnov test, and those that cover a bucket.

torchvision itself is no dependency of the tests: its CPU build lies on an index of its own. The transcription in
tests/support/resized_crop.py was compared with torchvision 0.28.0 by the same test, and so were our draws.
"""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu.draws import draws_of
from datago_gpu.imaging.crops import random_cover_region, random_resized_region
from datago_gpu.imaging.geometry import Region, cover_region
from tests.support.resized_crop import resized_crop

DRAWS = 20_000
USUAL = (0.08, 1.0), (3 / 4, 4 / 3)
CASES: dict[str, tuple[tuple[int, int], tuple[float, float], tuple[float, float]]] = {
    "a photograph": ((375, 500), *USUAL),
    "a panorama, which mostly falls back": ((100, 1000), *USUAL),
    "a tower, which mostly falls back": ((1000, 100), *USUAL),
    "a wide bucket": ((480, 640), (0.2, 0.9), (1.5, 2.5)),
    "a few pixels": ((7, 9), *USUAL),
}


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The statistic of Kolmogorov and Smirnov: how far apart the distributions of two samples are, 0 to 1."""
    one, other = np.sort(one), np.sort(other)
    both = np.concatenate([one, other])
    shares = [np.searchsorted(each, both, "right") / len(each) for each in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


CRITICAL = 1.95 * math.sqrt(2 / DRAWS)
"""Two samples of one distribution are further apart once in a thousand times. The numbers drawn here are fixed."""
FIGURES = {
    "area": lambda regions: regions[:, 2] * regions[:, 3],
    "aspect ratio": lambda regions: regions[:, 3] / regions[:, 2],
    "top": lambda regions: regions[:, 0],
    "left": lambda regions: regions[:, 1],
}


@pytest.mark.parametrize("case", CASES)
def test_regions_are_distributed_as_torchvision_s(case: str) -> None:
    (height, width), scale, aspect = CASES[case]
    random = Random(0)
    theirs = np.array(
        [resized_crop(height, width, scale, aspect, random.uniform, random.randrange) for _ in range(DRAWS)], float
    )
    ours = np.array([random_resized_region(height, width, scale, aspect, draws_of(3, 1, f"{n}")) for n in range(DRAWS)])
    for name, figure in FIGURES.items():
        assert distance(figure(theirs), figure(ours)) < CRITICAL, name


def test_the_statistic_tells_distributions_apart() -> None:
    regions = [
        np.array([random_resized_region(375, 500, scale, USUAL[1], draws_of(0, 0, f"{n}")) for n in range(2_000)])
        for scale in ((0.08, 1.0), (0.2, 1.0))
    ]
    assert distance(*(FIGURES["area"](each) for each in regions)) > CRITICAL * math.sqrt(10)


@pytest.mark.parametrize(
    ("size", "aspect", "region"),
    [
        ((480, 640), (2.0, 3.0), (80, 0, 320, 640)),  # wider than the picture
        ((640, 480), (0.2, 0.5), (0, 80, 640, 320)),  # narrower
        ((300, 300), (1.0, 1.0), (0, 0, 300, 300)),
        ((1, 1000), (3 / 4, 4 / 3), (0, 499, 1, 1)),
        ((1000, 1), (3.0, 4.0), (499, 0, 1, 1)),  # torchvision has no row left here
    ],
)
def test_what_no_try_fits_is_the_largest_region_of_the_centre(
    size: tuple[int, int], aspect: tuple[float, float], region: Region
) -> None:
    assert random_resized_region(*size, (1.0, 1.0), aspect, draws_of(0, 0, "a")) == region


def test_a_run_that_goes_on_with_another_version_sees_the_same_regions() -> None:
    assert random_resized_region(375, 500, *USUAL, draws_of(0, 0, "a.jpg")) == (9, 280, 282, 217)
    region = random_cover_region(375, 500, (224, 224), draws_of(0, 0, "a.jpg"))
    assert region == pytest.approx((0, 5.0517780297349875, 375, 375))


SIDES = st.integers(1, 30_000)
SHARES = st.floats(0.001, 1)
ASPECTS = st.floats(0.01, 100)


@given(SIDES, SIDES, st.tuples(SHARES, SHARES), st.tuples(ASPECTS, ASPECTS), st.integers())
def test_a_region_lies_within_the_picture_on_whole_pixels(
    height: int, width: int, scale: tuple[float, float], aspect: tuple[float, float], seed: int
) -> None:
    (low, high), (narrow, broad) = sorted(scale), sorted(aspect)
    top, left, tall, wide = random_resized_region(height, width, (low, high), (narrow, broad), Random(seed))
    assert all(value == int(value) for value in (top, left, tall, wide))
    assert 0 <= top <= height - tall
    assert 0 <= left <= width - wide
    assert min(tall, wide) >= 1


@given(SIDES, SIDES, st.tuples(st.integers(1, 2048), st.integers(1, 2048)), st.integers())
def test_a_random_cover_has_the_size_of_the_centred_one(
    height: int, width: int, target: tuple[int, int], seed: int
) -> None:
    top, left, tall, wide = random_cover_region(height, width, target, Random(seed))
    assert (tall, wide) == cover_region(height, width, target)[2:]
    assert 0 <= top <= height - tall
    assert 0 <= left <= width - wide


def test_random_covers_are_spread_evenly() -> None:
    lefts = [random_cover_region(300, 900, (64, 64), draws_of(0, 0, f"{n}"))[1] for n in range(DRAWS)]
    even = (np.arange(DRAWS) + 0.5) / DRAWS * 600
    assert distance(np.array(lefts), even) < CRITICAL
