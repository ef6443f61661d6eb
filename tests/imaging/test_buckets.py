"""Which bucket a picture goes to: the largest resolution that it fills, the smallest one, or none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.config import ImageConfig, LoaderConfig
from datago_gpu.errors import Rejected
from datago_gpu.imaging.buckets import MOST_SAMPLES, BucketChoice, by_resolution, samples_within
from datago_gpu.imaging.geometry import Size
from datago_gpu.plan.row_buckets import TOO_SMALL, row_buckets

SIDES = st.integers(1, 1500)
LISTS = st.lists(
    st.tuples(st.integers(1, 16), st.integers(1, 16)).map(lambda pair: (32 * pair[0], 32 * pair[1])),
    min_size=1,
    unique=True,
)


def choice_of(upscale: bool = True, edge: int = 0, **image: object) -> BucketChoice:
    config = ImageConfig(crop_and_resize=True, upscale=upscale, **image)  # type: ignore[arg-type]
    return BucketChoice(config.bucket_tables(), upscale=upscale, least_edge=edge)


def chosen(choice: BucketChoice, height: int, width: int) -> Size | str | None:
    try:
        return choice.choose(height, width)
    except Rejected as problem:
        return problem.reason


@given(st.lists(st.integers(64, 1024), min_size=1, max_size=4, unique=True), st.booleans(), SIDES, SIDES)
def test_a_picture_goes_to_the_largest_resolution_that_it_fills(
    resolutions: list[int], upscale: bool, height: int, width: int
) -> None:
    nearest = {
        size: ImageConfig(crop_and_resize=True, default_image_size=size).bucket_tables()[0].nearest(height, width)
        for size in resolutions
    }
    filled = [size for size, (high, wide) in nearest.items() if height >= high and width >= wide]
    expected: Size | str = nearest[max(filled)] if filled else nearest[min(nearest)] if upscale else "too-small"
    choice = choice_of(upscale, resolutions=resolutions)
    assert chosen(choice, height, width) == expected
    if expected != "too-small":
        assert choice.direct(height, width) == expected


@given(LISTS, st.booleans(), SIDES, SIDES)
def test_of_an_own_list_each_size_can_be_chosen_and_none_enlarges_a_picture(
    sizes: list[Size], upscale: bool, height: int, width: int
) -> None:
    choice = choice_of(upscale, buckets=sizes)
    assert sorted(choice.sizes) == sorted(sizes)
    assert all(choice.choose(*size) == size for size in sizes)
    found = chosen(choice, height, width)
    assert found in sizes or (found == "too-small" and not upscale)
    if not upscale and found != "too-small":
        assert isinstance(found, tuple)
        assert height >= found[0]
        assert width >= found[1]


def test_an_own_list_is_sorted_into_resolutions() -> None:
    large, small = [(1024, 1024), (896, 1152), (768, 1344)], [(512, 512), (448, 576)]
    assert [set(sizes) for sizes in by_resolution([*small, *large])] == [set(large), set(small)]
    assert by_resolution([(512, 512), (576, 576)]) == [[(576, 576)], [(512, 512)]]
    choice = choice_of(buckets=[*small, *large])
    assert choice.choose(4000, 5200) == (896, 1152)
    assert choice.choose(600, 700) == (448, 576)


@given(SIDES, SIDES, st.integers(1, 900))
def test_the_shorter_side_has_a_minimum_also_where_pictures_keep_their_sizes(
    height: int, width: int, edge: int
) -> None:
    expected = "too-small" if min(height, width) < edge else None
    assert chosen(BucketChoice([], least_edge=edge), height, width) == expected


@given(st.integers(1, 10**9), SIDES, SIDES)
def test_a_batch_has_as_many_samples_as_its_pixels_allow_but_one_at_least(pixels: int, height: int, width: int) -> None:
    count, area = samples_within(pixels, (height, width)), height * width
    assert 1 <= count <= MOST_SAMPLES
    assert count * area <= max(pixels, area)
    assert count == MOST_SAMPLES or (count + 1) * area > pixels


def test_a_listed_size_counts_as_too_small_only_if_a_turned_picture_is_too_small_as_well() -> None:
    choice = choice_of(upscale=False, buckets=[(256, 512)])
    choice.check_listed(512, 256)
    with pytest.raises(Rejected, match="too-small: 500 x 400 would have to be enlarged"):
        choice.choose(500, 400)
    with pytest.raises(Rejected, match="too-small"):
        choice.check_listed(400, 500)


@given(SIDES, SIDES)
def test_with_larger_views_a_picture_must_fill_the_buckets_of_all_views(height: int, width: int) -> None:
    image = {
        "crop_and_resize": True,
        "upscale": False,
        "views": [{"default_image_size": 256}, {"default_image_size": 512}],
    }
    config = LoaderConfig.load({"source_config": {}, "image_config": image})
    choice = config.bucket_choice()
    first = ImageConfig(crop_and_resize=True, default_image_size=256).bucket_tables()[0].nearest(height, width)
    second = config.image_config.view_bucket(1, first)
    fills = height >= max(first[0], second[0]) and width >= max(first[1], second[1])
    assert chosen(choice, height, width) == (first if fills else "too-small")
    numbers = row_buckets(np.array([[height, width]]), choice)
    assert numbers.tolist() == [choice.sizes.index(first) if fills else TOO_SMALL]


def test_batches_of_the_largest_and_the_smallest_bucket() -> None:
    image = {"crop_and_resize": True, "resolutions": [256, 1024]}
    config = LoaderConfig.load({"source_config": {}, "image_config": image, "batch_pixels": 4 << 20})
    assert [config.samples_of(size) for size in ((1024, 1024), (256, 256), (2048, 4096))] == [4, 64, 1]
    assert (config.least_samples, config.most_batch_pixels) == (4, 4 << 20)
    assert config.most_samples >= 64
