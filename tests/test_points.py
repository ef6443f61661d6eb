"""Key points and boxes: mapped to the pictures that are shown, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu import Batch, Loader
from tests.support.images import file_config
from tests.support.pictures import encode


def batch_of(crops: list[Any], sizes: list[Any], flipped: list[bool], bucket: tuple[int, int] | None = None) -> Batch:
    count = len(crops)
    return Batch(
        [f"{at}" for at in range(count)],
        [""] * count,
        None,
        np.full((count, 2), 1000, np.int32),
        np.array(crops, np.float32),
        bucket,
        tags=[[]] * count,
        attributes=[{}] * count,
        duplicate_states=[None] * count,
        flipped=np.array(flipped),
        image_sizes=None if bucket else np.array(sizes, np.int32),
    )


TWO = batch_of([(10, 20, 100, 200), (10, 20, 100, 200)], [], [False, True], (50, 50))
"""A region of 100 rows from row 10, and 200 columns from column 20, shown in 50 x 50 pixels; once mirrored."""


def test_points_are_x_and_y() -> None:
    corners = np.array([[(20, 10), (220, 110), (120, 10)]] * 2, float)
    shown = TWO.to_image(corners)
    assert shown.tolist() == [[[0, 0], [50, 50], [25, 0]], [[50, 0], [0, 50], [25, 0]]]
    assert np.array_equal(TWO.from_image(shown), corners)
    assert TWO[1].to_image(corners[1]).tolist() == shown[1].tolist()
    assert TWO[1].from_image((0, 50)).tolist() == [220, 110]
    assert TWO.to_image([[(20, 10)], [[20, 10], [220, 10]]])[1].tolist() == [[50, 0], [0, 0]]


def test_a_box_keeps_its_left_edge_left() -> None:
    boxes = np.array([[(20, 10, 120, 60)], [(20, 10, 120, 60)]], np.float32)
    shown = TWO.to_image(boxes)
    assert shown.dtype == np.float32
    assert shown.tolist() == [[[0, 0, 25, 25]], [[25, 0, 50, 25]]]
    assert np.array_equal(TWO.from_image(shown), boxes)
    assert TWO.to_image(boxes[:, 0]).tolist() == [[0, 0, 25, 25], [25, 0, 50, 25]]


def test_no_points_are_fine_and_other_forms_are_refused() -> None:
    assert TWO.to_image(np.zeros((2, 0, 2))).shape == (2, 0, 2)
    assert [each.shape for each in TWO.to_image([[], np.zeros((0, 4))])] == [(0,), (0, 4)]
    with pytest.raises(ValueError, match=r"an entry for each of the 2 samples, got the shape \(3, 2\)"):
        TWO.to_image(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="an entry for each of the 2 samples, got 1"):
        TWO.from_image([[(1, 2)]])
    with pytest.raises(ValueError, match=r"must hold \(x, y\), or \(x1, y1, x2, y2\) of a box, got the shape \(2, 3\)"):
        TWO.to_image(np.zeros((2, 3)))


def test_the_points_of_a_slice_and_of_a_sample_without_an_image() -> None:
    assert TWO[1:].to_image(np.array([[20.0, 10]])).tolist() == [[50, 0]]
    nothing = batch_of([(0, 0, 0, 0)], [(0, 0)], [False])
    assert nothing.to_image(np.array([[3.0, 4.0]])).tolist() == [[3, 4]]


SIDES = st.integers(1, 5000)
LENGTHS = st.floats(1, 5000, width=32)
CUTS = st.lists(
    st.tuples(st.tuples(st.floats(0, 5000, width=32), st.floats(0, 5000, width=32), LENGTHS, LENGTHS),
              st.tuples(SIDES, SIDES), st.booleans()), min_size=1, max_size=5)  # fmt: skip


@given(CUTS, st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), st.booleans())
def test_there_and_back_again(cuts: list[Any], numbers: list[float], boxes: bool) -> None:
    """Of images of unlike sizes, at once and one by one."""
    crops, sizes, flipped = map(list, zip(*cuts, strict=True))
    batch = batch_of(crops, sizes, flipped)
    points: NDArray[Any] = np.array(numbers)
    if boxes:
        points = np.concatenate([np.sort(points[::2]), np.sort(points[1::2])])[[0, 2, 1, 3]]
    points = np.tile(points.reshape(-1, 4 if boxes else 2), (len(batch), 1, 1))
    np.testing.assert_allclose(batch.from_image(batch.to_image(points)), points, atol=1e-6)
    np.testing.assert_allclose(batch.to_image(batch.from_image(points)), points, atol=1e-6)
    for there, alone in zip(batch.to_image(points), batch.to_image(list(points)), strict=True):
        assert np.array_equal(there, alone)
    if boxes:
        left, top, right, bottom = np.moveaxis(batch.to_image(points), -1, 0)
        assert (left <= right).all()
        assert (top <= bottom).all()


@pytest.mark.parametrize("image", [{"crop": "random_resized"}, {"crop_and_resize": False}, {"mixed_buckets": True}])
def test_a_mark_of_the_original_is_found_where_its_point_is_mapped_to(tmp_path: Path, image: dict[str, Any]) -> None:
    """A white square on black: whatever is shown of the picture, the centre of the square is where `to_image` says."""
    centres: dict[str, tuple[float, float]] = {}
    for number, (height, width) in enumerate([(200, 300), (300, 200), (240, 240), (200, 310)] * 4):
        pixels = np.zeros((height, width, 3), np.uint8)
        top, left = 60 + 3 * number, 70 + 2 * number
        pixels[top : top + 24, left : left + 24] = 255
        (tmp_path / f"{number:02}.png").write_bytes(encode(pixels))
        centres[f"{number:02}.png"] = (left + 12, top + 12)
    settings = {"flip": 0.5, "default_image_size": 192, **image}
    flips = 0
    with Loader(file_config(tmp_path, image=settings, decode_config={"processes": 0}), device="cpu") as loader:
        for batch in loader:
            for sample, (x, y) in zip(batch, batch.to_image([centres[id_] for id_ in batch.ids]), strict=True):
                bright = np.asarray(sample.image)[..., 0] > 127
                assert sample.image_size == bright.shape
                rows, columns = np.nonzero(bright)
                if rows.size == 0 or {0, bright.shape[0] - 1} & {*rows} or {0, bright.shape[1] - 1} & {*columns}:
                    continue  # cut off
                assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((x, y), abs=0.6)
                flips += sample.flipped
    assert flips >= 2
