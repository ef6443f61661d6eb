"""Masks of labels are cut from the region of their image by nearest neighbour, and mirrored with the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import EncodedImages
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import Backend
from datago_gpu.feeder.admit_parts import Frame, PartAdmission
from datago_gpu.feeder.region_choice import RegionChoice
from datago_gpu.imaging.geometry import Region
from datago_gpu.sources.reference import Part, SampleRef
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.images import file_config
from tests.support.pictures import decode, encode, on_host

CASES_AN_EXAMPLE = 25
EXAMPLES = 40
"""1,000 cases in all, on each back end."""
BUCKET = (48, 80)
CROPS = {
    "random": ImageConfig(crop_and_resize=True, crop="random", flip=0.5),
    "random_resized": ImageConfig(crop_and_resize=True, crop="random_resized", flip=0.5),
}


@dataclass
class Case:
    """A mask, and the region that is shown of it."""

    labels: NDArray[np.uint8]
    payload: bytes
    region: Region
    flipped: bool


def case_of(crop: str, name: str, image: tuple[int, int], mask: tuple[int, int]) -> Case:
    """The mask of an image of another size, as the feeder hands it on."""
    rows, columns = np.mgrid[0 : mask[0], 0 : mask[1]]
    labels = ((37 * rows + 11 * columns) % 251).astype(np.uint8)  # neighbours differ
    region, flipped = RegionChoice(CROPS[crop], seed=5)(SampleRef(0, SampleInfo(name)), *image, BUCKET)
    admission = PartAdmission(file_config("/"))
    part = admission.quick(Part("seg", "mask"), encode(labels, compress_level=0), Frame(image, region, BUCKET))
    assert part is not None
    return Case(labels, part.payload, part.region, flipped)


def batch_of(cases: list[Case]) -> EncodedImages:
    return EncodedImages(
        payloads=[np.frombuffer(case.payload, np.uint8) for case in cases],
        sizes=np.array([case.labels.shape for case in cases], np.int32),
        regions=np.array([case.region for case in cases], np.float32),
        orientations=np.ones(len(cases), np.uint8),
        target=BUCKET,
        flipped=np.array([case.flipped for case in cases]),
        checked=True,
    )


def nearest(start: float, length: float, count: int, side: int) -> list[NDArray[np.int64]]:
    """Which rows or columns a cut takes. Two candidates, where the position is a hair beside the edge of a pixel."""
    positions = start + (np.arange(count) + 0.5) * length / count
    return [np.clip(np.floor(positions + hair), 0, side - 1).astype(int) for hair in (-1e-3, 1e-3)]


def assert_nearest(found: NDArray[Any], case: Case) -> None:
    top, left, height, width = case.region
    rows = nearest(top, height, BUCKET[0], case.labels.shape[0])
    columns = nearest(left, width, BUCKET[1], case.labels.shape[1])
    upright = found[:, ::-1, 0] if case.flipped else found[:, :, 0]
    cuts = [case.labels[np.ix_(row, column)] for row in rows for column in columns]
    assert np.logical_or.reduce([upright == cut for cut in cuts]).all()
    sure = (rows[0] == rows[1])[:, None] & (columns[0] == columns[1])[None]
    assert np.array_equal(upright[sure], cuts[0][sure])


SIDES = st.integers(1, 300)
SIZES = st.tuples(SIDES, SIDES)


@pytest.mark.parametrize("crop", CROPS)
@given(drawn=st.data())
@settings(max_examples=EXAMPLES // 2)
def test_a_mask_is_the_nearest_cut_of_the_same_region(backend: Backend, crop: str, drawn: st.DataObject) -> None:
    sizes = drawn.draw(st.lists(st.tuples(SIZES, SIZES), min_size=CASES_AN_EXAMPLE, max_size=CASES_AN_EXAMPLE))
    same = drawn.draw(st.booleans())
    cases = [case_of(crop, f"{at}", image, image if same else mask) for at, (image, mask) in enumerate(sizes)]
    decoder = make_decoder(backend, CROPS[crop], DecodeConfig(threads=1), CASES_AN_EXAMPLE, mask=True)
    try:
        decoded = decode(decoder, batch_of(cases))
    finally:
        decoder.close()
    assert not decoded.failures
    for found, case in zip(on_host(decoded.image), cases, strict=True):
        assert_nearest(found, case)
