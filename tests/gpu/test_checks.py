"""The parts that the checks are made of: they see what they are there to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import datago_gpu
from datago_gpu.decoders.decoder import DecodedImages
from tests.support.pictures import on_host as as_numpy
from tools.gpu_report.arrays import Arrays
from tools.gpu_report.bad import bad_images
from tools.gpu_report.checks.hazard import CORRUPT, Stress
from tools.gpu_report.context import Context
from tools.gpu_report.graph import bare_pipeline, decode_all, on_host
from tools.gpu_report.pixels import Difference
from tools.gpu_report.ram import RamBatch, batches, decoded, encoded, pump, read, timed

PHOTOS = Path(datago_gpu.__file__).parent / "photos"
TARGET = (64, 96)


@pytest.fixture
def context(device: str, tmp_path: Path) -> Context:
    return Context(device, tmp_path, budget_s=10, small=True)


@pytest.fixture
def todo() -> list[RamBatch]:
    return batches(read(PHOTOS)[:6], 3, TARGET)


@pytest.mark.parametrize("crop", [True, False])
def test_the_bare_pipeline_decodes_as_the_decoder_does(context: Context, crop: bool) -> None:
    """Its speed is the limit that the decoder is held to, so it must do the same work."""
    images = encoded(read(PHOTOS)[:5], TARGET if crop else None)
    ours = decoded(context.decoder(5, crop=crop), images).image
    bare = decode_all([images], device_id=context.device_id, crop=crop, threads=2)
    assert all(np.array_equal(as_numpy(one), other) for one, other in zip(ours, bare, strict=True))


def test_the_bare_pipeline_takes_batches_of_any_number(context: Context, todo: list[RamBatch]) -> None:
    pipeline = bare_pipeline((batch.images for batch in todo), device_id=context.device_id, batch_size=8, prefetch=1)
    assert [len(on_host(pipeline.run()[0])) for _ in todo] == [3, 3]


def test_a_pumped_decoder_gives_each_batch_once_and_in_order(context: Context, todo: list[RamBatch]) -> None:
    seen: list[tuple[RamBatch, DecodedImages]] = []
    pump(context.decoder(3), [todo[0], todo[1], todo[0]], lambda *each: seen.append(each))
    assert [batch for batch, _ in seen] == [todo[0], todo[1], todo[0]]
    assert timed(context.decoder(3), todo, 0.05, warm_up=1).images % 3 == 0


def test_stress_sees_a_single_overwritten_row(context: Context, todo: list[RamBatch]) -> None:
    """The check of the hazard must be able to fail."""
    arrays = Arrays(context.device_id)
    image = arrays.view(decoded(context.decoder(3), todo[0].images).image)
    for spoilt in (False, True):
        stress = Stress(arrays, {id(todo[0]): [image.copy()]})
        for _ in range(12):
            pixels = image.copy()
            if spoilt:
                pixels[1, 7] ^= 0xFF
            arrays.synchronize()
            stress.take(todo[0], DecodedImages(pixels))
        worst = stress.finish()
        assert bool((worst > CORRUPT).any()) is spoilt


def test_a_checksum_sees_one_pixel_and_an_exchange_of_two(context: Context) -> None:
    arrays = Arrays(context.device_id)
    pixels = arrays.xp.asarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    changed, exchanged = pixels.copy(), pixels.copy()
    changed[2, 1, 0] += 1
    exchanged[0, 0], exchanged[3, 3] = pixels[3, 3], pixels[0, 0]
    assert len({arrays.checksum(each) for each in (pixels, changed, exchanged)}) == 3


def test_differences_are_counted_without_wrapping() -> None:
    difference = Difference()
    difference.add(np.array([0, 255, 10, 10], np.uint8), np.array([255, 0, 10, 14], np.uint8))
    assert (difference.mean, difference.max, difference.quantile(0.5)) == ((255 + 255 + 4) / 4, 255, 4)
    with pytest.raises(ValueError, match="shapes differ"):
        difference.add(np.zeros((1, 3), np.uint8), np.zeros((3, 1), np.uint8))


def test_bad_images_are_of_every_kind_that_the_issue_names() -> None:
    names = {each.name for each in bad_images((PHOTOS / "cat.jpg").read_bytes())}
    assert {"truncated", "garbage", "12 bits", "lossless", "CMYK", "empty"} <= names
