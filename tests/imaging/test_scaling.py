"""Pillow's way to resize gives the pictures that cykooz-resizer gives, so that every machine sees the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.imaging import plain_resize
from datago_gpu.imaging.geometry import Region, Size
from tests.support.needs import needs
from tests.support.pictures import picture
from tests.support.without import VARIABLE

PHOTO = Path(__file__).parents[2] / "datago_gpu" / "photos" / "astronaut.jpg"
PART = "scaled_as or turned_as or (in_order_on_both and pillow) or (those_of_a_loader and pillow and flip)"
FAST_PACKAGES = "cykooz_resizer,simplejpeg"


def boxes(height: int, width: int) -> st.SearchStrategy[Region]:
    """Regions within an image, at any fraction of a pixel."""
    sides = [st.tuples(st.floats(0, 0.6), st.floats(0.3, 1)) for _ in range(2)]
    return st.tuples(*sides).map(lambda ends: _region(ends, (height, width)))


def _region(ends: tuple[tuple[float, float], ...], size: Size) -> Region:
    (top, high), (left, wide) = ends
    height, width = size
    top, left = top * height, left * width
    return top, left, min(high * height, height - top), min(wide * width, width - left)


def difference(one: object, other: object) -> NDArray[np.int64]:
    return np.abs(np.asarray(one).astype(np.int64) - np.asarray(other))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
@settings(max_examples=25)
@given(box=boxes(80, 100), size=st.tuples(st.integers(1, 150), st.integers(1, 150)))
def test_images_differ_by_two_levels_at_most(mode: str, box: Region, size: Size) -> None:
    fast = needs("datago_gpu.imaging.simd_resize")
    with Image.open(PHOTO) as photo:
        image = photo.convert("RGB").resize((100, 80))
    if "A" in mode:  # half of it is transparent: colours are divided by alpha, which is coarse in 8 bits
        image.putalpha(Image.fromarray(np.arange(8000, dtype=np.uint16).reshape(80, 100).clip(0, 255).astype(np.uint8)))
    image = image.convert(mode)
    found, wanted = (each.resize_image(image, box, size, "lanczos") for each in (plain_resize, fast))
    assert (found.mode, found.size) == (wanted.mode, wanted.size)
    off = difference(found, wanted)
    assert np.median(off) <= 1
    assert off.max() <= (2 if "A" not in mode else 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@settings(max_examples=25)
@given(box=boxes(40, 60), size=st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_arrays_of_16_bits_differ_by_two_levels_at_most(channels: int, box: Region, size: Size) -> None:
    fast = needs("datago_gpu.imaging.simd_resize")
    pixels = np.dstack([picture(40, 60), picture(40, 60)[:, :, :1]])[:, :, :channels].astype(np.uint16) * 257
    if channels in (2, 4):
        pixels[:, :, -1] = np.maximum(pixels[:, :, -1], 20_000)
    found, wanted = (each.ArrayResizer(pixels).resize(box, size, "lanczos") for each in (plain_resize, fast))
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape) == (np.uint16, (*size, channels))
    assert difference(found, wanted).max() <= (2 if channels in (1, 3) else 40)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@given(box=boxes(33, 47), size=st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_labels_come_from_the_same_pixels(dtype: type, box: Region, size: Size) -> None:
    fast = needs("datago_gpu.imaging.simd_resize")
    rows, columns = (np.broadcast_to(np.arange(33)[:, None], (33, 47)), np.broadcast_to(np.arange(47), (33, 47)))
    for numbers in (rows, columns):  # where a number is the place, half a pixel of rounding shows as one
        pixels = numbers.astype(dtype)[:, :, None]
        found, wanted = (each.ArrayResizer(pixels).resize(box, size, "nearest") for each in (plain_resize, fast))
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        off = difference(found, wanted)
        assert off.max() <= 1
        assert np.mean(off > 0) <= 0.5


def test_hidden_colours_do_not_show() -> None:
    pixels = np.zeros((20, 20, 4), np.uint16)
    pixels[:, :10] = (65535, 0, 0, 65535)
    pixels[:, 10:, 1] = 65535  # transparent green
    shown = plain_resize.ArrayResizer(pixels).resize((0.0, 0.0, 20.0, 20.0), (7, 7), "lanczos")
    assert shown[:, :, 1].max() == 0
    assert shown[:, 0].tolist() == [[65535, 0, 0, 65535]] * 7
    eight_bits = plain_resize.resize_image(
        Image.fromarray((pixels >> 8).astype(np.uint8)), (0.0, 0.0, 20.0, 20.0), (7, 7), "lanczos"
    )
    assert np.asarray(eight_bits)[:, :, 1].max() == 0


@pytest.mark.timeout(300)
def test_a_part_of_the_suite_passes_without_the_fast_packages() -> None:
    """CONTRIBUTING.md says how to run all of it so."""
    here = Path(__file__).parents[1]
    parts = [
        here / "imaging" / "test_own_channels.py",
        here / "loader" / "test_single_call.py",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", PART, *map(str, parts)],
        cwd=here.parent,
        env={**os.environ, VARIABLE: FAST_PACKAGES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
