"""Batches in portions: as if they had been decoded at once, within the memory that is allowed."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import DecodedImages, EncodedImages
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.placement import HostPlacer
from datago_gpu.decoders.portions import PortionedDecoder
from datago_gpu.decoders.select import choose
from tests.imaging.test_allowance import SMALL, batch, png
from tests.support.bounds import peak_of


class Recorder:
    """Stands where DALI would: an image becomes its side, and 13 cannot be decoded. most: what was held at once."""

    def __init__(self, depth: int, threads: int, *, dense: bool) -> None:
        self.depth, self._threads, self._dense = depth, threads, dense
        self._jobs: deque[list[int]] = deque()
        self.most = self.portions = 0

    def submit(self, images: EncodedImages) -> None:
        assert len(self._jobs) < self.depth
        assert len(images)
        self._jobs.append(images.sizes[:, 0].tolist())
        self.portions += 1
        self.most = max(self.most, sum(map(self.cost, self._jobs)))

    def cost(self, sides: list[int]) -> int:
        pixels = [side * side for side in sides]
        return 3 * sum(pixels) + 9 * max(pixels) * min(len(pixels), self._threads)

    def collect(self) -> DecodedImages:
        sides = self._jobs.popleft()
        good = [np.array([side]) for side in sides if side != 13]
        failures = {index: f"thirteen at {index}" for index, side in enumerate(sides) if side == 13}
        if not good:
            return DecodedImages(None, failures)
        return DecodedImages(np.stack(good) if self._dense else good, failures)

    def close(self) -> None:
        self._jobs.clear()


def images(sides: list[int], *, is_counted: bool = False) -> EncodedImages:
    sizes = np.array([[side, side] for side in sides], np.int32)
    return EncodedImages(
        payloads=[np.frombuffer(bytes([side]), np.uint8) for side in sides],
        sizes=sizes,
        regions=np.zeros((len(sides), 4), np.float32),
        orientations=np.ones(len(sides), np.uint8),
        target=(8, 8),
        largest=max(sides) ** 2 if is_counted else 0,
    )


@given(
    st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 3000),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_portions_give_what_the_whole_gives_within_the_memory(
    batches: list[list[int]], memory: int, threads: int, depth: int, dense: bool, is_counted: bool
) -> None:
    inner = Recorder(depth, threads, dense=dense)
    decoder = PortionedDecoder(inner, memory, threads, HostPlacer)
    found: list[DecodedImages] = []
    for number, sides in enumerate(batches):
        if number >= depth:
            found.append(decoder.collect())
        decoder.submit(images(sides, is_counted=is_counted))
    if len(batches) >= depth:
        with pytest.raises(RuntimeError, match="collect one first"):
            decoder.submit(images([1]))
    while len(found) < len(batches):
        found.append(decoder.collect())
    with pytest.raises(RuntimeError, match="submit one first"):
        decoder.collect()
    decoder.close()
    for sides, decoded in zip(batches, found, strict=True):
        good = [[side] for side in sides if side != 13]
        assert (decoded.image is None) == (not good)
        assert good == ([] if decoded.image is None else np.asarray(decoded.image).tolist())
        assert sorted(decoded.failures) == [index for index, side in enumerate(sides) if side == 13]
    largest = max(inner.cost([side]) for sides in batches for side in sides)
    assert inner.most <= max(memory, largest)


@pytest.mark.parametrize("memory_mb", [1, 1000])
def test_a_batch_in_portions_has_the_very_same_pixels(memory_mb: int) -> None:
    rng = np.random.default_rng(3)
    payloads = [png("RGB", 300 + number, 400) for number in range(6)]
    given = batch(payloads, 300, 400)
    given.sizes[:, 0] = given.regions[:, 2] = 300 + np.arange(6)
    given.payloads[2] = rng.integers(0, 255, 500, np.uint8)
    decoder = make_decoder(choose("cpu", "dali"), ImageConfig(**SMALL), DecodeConfig(threads=2, memory_mb=memory_mb), 6)
    decoder.submit(given)
    decoded = decoder.collect()
    decoder.close()
    assert list(decoded.failures) == [2]
    assert np.asarray(decoded.image).shape == (5, 32, 32, 3)


def decode_large(memory_mb: int) -> None:
    payload = png("RGB", 2000, 2000)
    decoder = make_decoder(choose("cpu", "dali"), ImageConfig(**SMALL), DecodeConfig(threads=2, memory_mb=memory_mb), 8)
    decoder.submit(batch([payload] * 8, 2000, 2000))
    assert np.asarray(decoder.collect().image).shape == (8, 32, 32, 3)
    decoder.close()


def test_large_images_are_given_to_dali_a_portion_at_a_time() -> None:
    """Eight take 96 MB at once, and more while they are decoded. DALI itself takes some 90."""
    assert peak_of(decode_large, 2000) - peak_of(decode_large, 60) > 40
