"""What DALI is given for a batch: the rois that the feeder has computed, and payloads that it drops on our thread."""

from __future__ import annotations

import mmap
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datago_gpu.decoders.decoder import EncodedImages, Payloads
from datago_gpu.decoders.select import choose
from datago_gpu.imaging.geometry import rois_of
from tests.decoders.conftest import MakeDecoder
from tests.support.pictures import batch, decode, encode, picture

SIDES = st.integers(1, 30_000)
PIXELS = picture(40, 64)


def with_rois(images: EncodedImages) -> EncodedImages:
    """The batch as the feeder sends it."""
    targets = [images.target_of(row) or (0, 0) for row in range(len(images))]
    rois = rois_of(images.regions.tolist(), images.sizes.tolist(), targets)
    return replace(images, rois=np.frombuffer(rois, np.float32).reshape(-1, 6))


@given(SIDES, SIDES, *[st.floats(0, 1)] * 4)
def test_a_view_ends_where_the_region_does_and_never_outside(
    height: int, width: int, top: float, left: float, down: float, right: float
) -> None:
    top, left = top * height, left * width
    region = (top, left, down * (height - top), right * (width - left))
    found = np.frombuffer(rois_of([region], [(height, width)], [(8, 16)]), np.float32)
    assert found.tolist()[:2] == [np.float32(top), np.float32(left)]
    np.testing.assert_allclose(found[2:4], [top + region[2], left + region[3]], rtol=1e-6, atol=1e-30)
    assert found[2] <= height
    assert found[3] <= width
    assert found.tolist()[4:] == [8, 16]


def test_rois_of_the_feeder_give_the_same_pixels(make: MakeDecoder) -> None:
    decoder = make(choose("cpu", "dali"))
    regions = [(0.5, 3.25, 20.125, 33.5), (0.0, 0.0, 40.0, 64.0), (7.0, 1.0, 33.0, 63.0)]
    images = batch([encode(PIXELS)] * 3, [(40, 64)] * 3, (24, 40), regions=regions)
    without = decode(decoder, images)
    assert np.array_equal(decode(decoder, with_rois(images)).image, without.image)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_rescued_image_has_a_view_of_its_own(make: MakeDecoder, mixed: bool) -> None:
    """DALI refuses the second image when it decodes. Pillow then gives pixels of another size and region."""
    decoder = make(choose("cpu", "dali"))
    regions = [(3.0, 5.0, 20.0, 30.0)] * 3
    images = batch([encode(PIXELS), encode(PIXELS, "TGA"), encode(PIXELS)], [(40, 64)] * 3, (16, 24), regions=regions)
    if mixed:
        images = replace(images, target=None, targets=np.array([(16, 24)] * 3, np.int32))
    decoded = decode(decoder, replace(with_rois(images), checked=True))
    assert list(decoded.rescued) == [1]
    assert np.array_equal(decoded.image[0], decoded.image[2])
    assert np.abs(decoded.image[1].astype(int) - decoded.image[0]).max() <= 2


class _Watched(np.ndarray):  # type: ignore[type-arg]
    """A view of a payload that tells when it is dropped."""


class _WatchedPayloads(Payloads):
    """Payloads in shared memory, each as an array that only its reader holds."""

    dropped: list[threading.Thread]

    def buffers(self) -> Any:
        return list(self)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for array in super().__iter__():
            watched = array.view(_Watched)
            weakref.finalize(watched, lambda: self.dropped.append(threading.current_thread()))
            yield watched


def test_dali_drops_no_python_object_on_its_threads(make: MakeDecoder) -> None:
    """Its threads would wait for the GIL for each payload, up to 5 ms while the trainer computes in Python."""
    decoder, payload, count = make(choose("cpu", "dali")), encode(PIXELS), 8
    images = batch([payload] * count, [(40, 64)] * count, (24, 40))
    with mmap.mmap(-1, len(payload)) as memory:
        memory[:] = payload
        payloads = _WatchedPayloads(memory, [0] * count, [len(payload)] * count)
        payloads.dropped = []
        for _ in range(20):
            assert not decode(decoder, replace(images, payloads=payloads, checked=True)).failures
        assert set(payloads.dropped) == {threading.current_thread()}
        assert len(payloads.dropped) == 20 * count
        decoder.close()
        del payloads
