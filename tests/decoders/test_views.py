"""Several views of one image: decoded once, and each view as if it were the only one. On every back end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import Decoder, EncodedImages
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import choose
from datago_gpu.imaging.geometry import Region, rois_of
from tests.support.pictures import batch, decode, encode, on_host, oriented_jpeg, picture

Target = tuple[int, int]
View = tuple[list[Region], Target, list[bool]]
"""The regions of the images, the size of all, and which are mirrored."""
SIZES = [(60, 101), (80, 64), (48, 48)]
KINDS = [oriented_jpeg(picture(*SIZES[0], seed=1), 6), encode(picture(*SIZES[1], seed=2)),
         encode(picture(*SIZES[2], seed=3), "JPEG", quality=95)]  # fmt: skip
ORIENTATIONS = [6, 1, 1]


def regions_in(height: int, width: int) -> st.SearchStrategy[Region]:
    def region(top: float, left: float, down: float, right: float) -> Region:
        high, wide = max(2.0, down * height), max(2.0, right * width)
        return top * (height - high), left * (width - wide), high, wide

    return st.builds(region, *[st.floats(0, 1)] * 4)


VIEWS: st.SearchStrategy[list[View]] = st.lists(
    st.tuples(
        st.tuples(*(regions_in(*size) for size in SIZES)).map(list),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(*[st.booleans()] * len(SIZES)).map(list),
    ),
    min_size=2,
    max_size=6,
)


def encoded(views: list[View], *, rois: bool = False) -> EncodedImages:
    """The batch of these views, as the feeder sends it."""
    made: list[EncodedImages] = []
    for regions, target, flipped in views:
        images = batch(KINDS, SIZES, target, regions=regions, orientations=ORIENTATIONS)
        images.flipped = np.array(flipped)
        if rois:
            found = rois_of(images.regions.tolist(), SIZES, [target] * len(SIZES))
            images.rois = np.frombuffer(found, np.float32).reshape(-1, 6)
        made.append(images)
    first = made[0]
    further = [replace(each, payloads=first.payloads, sizes=first.sizes) for each in made[1:]]
    return replace(first, further=further)


def alone(images: EncodedImages, view: int) -> EncodedImages:
    """The batch of a run that has only this view."""
    return replace(images.views[view], further=[])


def flipping(count: int) -> ImageConfig:
    """Settings of so many views. The sizes stand in the batch; these are not looked at."""
    return ImageConfig(crop_and_resize=True, flip=0.5, views=[{}] * count)  # type: ignore[arg-type]


def decoder_of(backend: str, count: int, device: str = "cpu", **decode: Any) -> Decoder:
    image = flipping(count) if count > 1 else ImageConfig(crop_and_resize=True, flip=0.5)
    return make_decoder(choose(device, backend), image, DecodeConfig(threads=1, **decode), 16)


@pytest.fixture(scope="module")
def decoders() -> Iterator[dict[tuple[str, int], Decoder]]:
    """Decoders by back end and number of views; DALI makes its graph for a number of views."""
    made = {(name, count): decoder_of(name, count, draft=False) for name in ("pillow", "dali") for count in range(1, 7)}
    yield made
    for decoder in made.values():
        decoder.close()


def shown(decoder: Decoder, images: EncodedImages) -> list[NDArray[Any]]:
    decoded = decode(decoder, images)
    assert not decoded.failures
    return [on_host(view) for view in (decoded.image, *decoded.further)]


@given(VIEWS, st.booleans())
@settings(max_examples=25)
def test_each_view_is_bit_equal_to_a_run_with_this_view_alone(
    decoders: dict[tuple[str, int], Decoder], views: list[View], rois: bool
) -> None:
    images = encoded(views, rois=rois)
    for backend in ("pillow", "dali"):
        found = shown(decoders[backend, len(views)], images)
        assert len(found) == len(views)
        for number, (pixels, (_, target, _)) in enumerate(zip(found, views, strict=True)):
            assert pixels.shape == (len(SIZES), *target, 3)
            assert np.array_equal(pixels, shown(decoders[backend, 1], alone(images, number))[0])


def test_both_back_ends_show_the_same_on_every_device(device: str) -> None:
    views: list[View] = [
        ([(3.0, 5.0, 48.0, 80.0), (0.0, 0.0, 80.0, 64.0), (4.0, 4.0, 40.0, 40.0)], (32, 32), [True, False, True]),
        ([(10.0, 20.0, 32.0, 32.0), (9.5, 3.25, 40.0, 40.0), (0.0, 0.0, 48.0, 48.0)], (16, 24), [False, True, False]),
    ]
    images = encoded(views)
    made = [decoder_of("pillow", 2), decoder_of("dali", 2, device)]
    try:
        for ours, theirs in zip(shown(made[0], images), shown(made[1], images), strict=True):
            assert np.abs(ours.astype(int) - theirs).mean() <= 0.5
    finally:
        for decoder in made:
            decoder.close()


def test_a_jpeg_is_reduced_only_as_far_as_the_largest_view_allows() -> None:
    """A small view of a large region is then cut from more pixels than in a run of its own, and is not softer."""
    photo = encode(picture(256, 256, seed=4), "JPEG", quality=95)
    large = batch([photo], [(256, 256)], (200, 200))
    images = replace(large, further=[replace(batch([photo], [(256, 256)], (32, 32)), payloads=large.payloads)])
    drafted, exact = decoder_of("pillow", 2), decoder_of("pillow", 1, draft=False)
    try:
        _, small = shown(drafted, images)
        (wanted,) = shown(exact, alone(images, 1))
        (reduced,) = shown(drafted, alone(images, 1))
        assert np.array_equal(small, wanted)
        assert not np.array_equal(reduced, wanted)
        assert np.abs(reduced.astype(int) - wanted).mean() <= 4  # stated in the docs as "slightly softer"
        both_small = replace(alone(images, 1), further=[alone(images, 1)])
        assert all(np.array_equal(view, reduced) for view in shown(drafted, both_small))
    finally:
        drafted.close()
        exact.close()


TWO: list[View] = [
    ([(3.0, 5.0, 40.0, 30.0)] * 3, (16, 24), [True, False, True]),
    ([(0.0, 0.0, 48.0, 48.0)] * 3, (8, 8), [False, True, False]),
]


@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_an_image_that_cannot_be_decoded_is_missing_in_every_view(backend: str) -> None:
    images = encoded(TWO)
    payloads = [images.payloads[0], np.frombuffer(KINDS[1][:-100], np.uint8), images.payloads[2]]
    for view in images.views:
        view.payloads = payloads
    decoder = decoder_of(backend, 2)
    try:
        decoded = decode(decoder, images)
        whole = shown(decoder, encoded(TWO))
    finally:
        decoder.close()
    assert list(decoded.failures) == [1]
    for pixels, every in zip((decoded.image, *decoded.further), whole, strict=True):
        assert np.array_equal(pixels, every[[0, 2]])


def test_an_image_that_dali_refuses_is_rescued_in_every_view() -> None:
    """Pillow's pixels of all views reach DALI in one picture."""
    images = encoded(TWO, rois=True)
    strange = np.frombuffer(encode(picture(*SIZES[1], seed=2), "TGA"), np.uint8)
    for view in images.views:
        view.payloads, view.checked = [images.payloads[0], strange, images.payloads[2]], True
    decoder, pillow = decoder_of("dali", 2), decoder_of("pillow", 2)
    try:
        decoded, wanted = decode(decoder, images), shown(pillow, images)
        assert list(decoded.rescued) == [1]
        for pixels, ours in zip((decoded.image, *decoded.further), wanted, strict=True):
            assert np.array_equal(pixels[1], ours[1])
    finally:
        decoder.close()
        pillow.close()


def test_portions_of_a_batch_are_joined_view_by_view() -> None:
    images = encoded(TWO)
    small, large = decoder_of("dali", 2), decoder_of("dali", 2)
    small._memory = 1  # each image is a portion of its own
    try:
        for pixels, wanted in zip(shown(small, images), shown(large, images), strict=True):
            assert np.array_equal(pixels, wanted)
    finally:
        small.close()
        large.close()


def test_dali_refuses_a_batch_with_another_number_of_views() -> None:
    decoder = decoder_of("dali", 3)
    try:
        with pytest.raises(ValueError, match="2 views do not go with 3 in the settings"):
            decoder.submit(encoded(TWO))
    finally:
        decoder.close()
