"""What every decoder promises: pixels, form, order, isolation of bad images, and an end."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datago_gpu.decoders.select import Backend
from tests.decoders.conftest import MakeDecoder
from tests.support.pictures import batch, decode, difference, encode, on_host, oriented_jpeg, picture, pictures

TRUNCATED = encode(picture(64, 64), "JPEG")[:700]
BAD = [b"", b"<html></html>", TRUNCATED, encode(picture(64, 64))[:300]]


@pytest.mark.parametrize(
    ("kind", "options", "mean", "most"),
    [
        ("PNG", {}, 0, 0),
        ("PPM", {}, 0, 0),
        ("WEBP", {"lossless": True}, 0, 0),
        ("WEBP", {"quality": 95}, 4, 30),
        ("JPEG", {"quality": 95, "subsampling": 0}, 2, 12),
        ("JPEG", {"quality": 95, "subsampling": 2}, 4, 40),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 2, 12),
    ],
)
@pytest.mark.parametrize("shape", [(64, 64), (41, 67)])
def test_a_whole_image_has_its_pixels(
    backend: Backend,
    make: MakeDecoder,
    shape: tuple[int, int],
    kind: str,
    options: dict[str, Any],
    mean: float,
    most: float,
) -> None:
    pixels = picture(*shape)
    decoded = decode(make(backend, crop=False), batch([encode(pixels, kind, **options)], [shape], None))
    assert isinstance(decoded.image, list)
    assert (decoded.image[0].shape, str(decoded.image[0].dtype)) == ((*shape, 3), "uint8")
    apart = difference(decoded.image[0], pixels)
    assert apart.mean() <= mean
    assert apart.max() <= most


def test_gray_is_replicated_and_cmyk_converted(backend: Backend, make: MakeDecoder) -> None:
    gray = Image.fromarray(picture(40, 40)[:, :, 0])
    cmyk = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    payloads = [encode(gray), encode(gray, "JPEG", quality=100), encode(cmyk, "JPEG", quality=100)]
    cropped = decode(make(backend), batch(payloads, [(40, 40)] * 3, (40, 40))).image
    whole = decode(make(backend, crop=False), batch(payloads, [(40, 40)] * 3, None)).image
    expected = [np.asarray(gray.convert("RGB"))] * 2 + [np.full((40, 40, 3), (255, 0, 0))]
    for index, pixels in enumerate(expected):
        assert difference(cropped[index], pixels).max() <= 4
        assert difference(whole[index], pixels).max() <= 4


@pytest.mark.parametrize("crop", [True, False])
def test_every_orientation_shows_the_same_upright_picture(backend: Backend, make: MakeDecoder, crop: bool) -> None:
    pixels = picture(96, 64)
    orientations = list(range(1, 9))
    payloads = [oriented_jpeg(pixels, orientation) for orientation in orientations]
    images = batch(
        payloads,
        [(96, 64)] * 8,
        (40, 32) if crop else None,
        regions=[(3.5, 11.25, 50.0, 40.0) if crop else (0, 0, 96, 64)] * 8,
        orientations=orientations,
    )
    decoded = decode(make(backend, crop=crop), images)
    assert not decoded.failures
    upright = on_host(decoded.image[0])
    for index in range(8):
        assert difference(decoded.image[index], upright).max() <= 12, f"orientation {orientations[index]}"
        assert difference(decoded.image[index], upright).mean() <= 1


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize(
    ("dtype", "normalised"),
    [("uint8", False), ("float16", False), ("float16", True), ("float32", False), ("float32", True)],
)
@pytest.mark.parametrize("crop", [True, False])
def test_the_form_is_what_numpy_computes(
    backend: Backend, make: MakeDecoder, layout: str, dtype: str, normalised: bool, crop: bool
) -> None:
    images = pictures(3, (32, 40) if crop else None)
    plain = decode(make(backend, crop=crop), images).image
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    settings = {"mean": mean, "std": std} if normalised else {}
    formed = decode(make(backend, crop=crop, layout=layout, dtype=dtype, **settings), images).image
    for source, result in zip(map(on_host, plain), map(on_host, formed), strict=True):
        expected = source if dtype == "uint8" else source / np.float32(255)
        expected = (expected - mean) / std if normalised else expected
        expected = expected.transpose(2, 0, 1) if layout == "CHW" else expected
        assert result.dtype == dtype
        assert result.shape == expected.shape
        assert difference(result, expected).max() <= (2e-3 if dtype == "float16" else 2e-6)


def test_batches_may_differ_in_length_and_in_target(backend: Backend, make: MakeDecoder) -> None:
    decoder = make(backend, depth=3)
    sizes = [(5, (32, 40)), (16, (48, 24)), (1, (8, 8)), (7, (32, 40)), (2, (64, 64))]
    todo = [pictures(count, target, seed=count) for count, target in sizes]
    results = []
    for index in range(len(todo) + 2):
        if index < len(todo):
            decoder.submit(todo[index])
        if index >= 2:
            results.append(decoder.collect().image)
    assert [tuple(result.shape) for result in results] == [(count, *target, 3) for count, target in sizes]
    for images, result in zip(todo, results, strict=True):
        assert difference(result, decode(decoder, images).image).max() == 0


@pytest.mark.parametrize("bad", BAD, ids=["empty", "html", "truncated-jpeg", "truncated-png"])
@pytest.mark.parametrize("crop", [True, False])
def test_a_bad_image_costs_itself_only(backend: Backend, make: MakeDecoder, bad: bytes, crop: bool) -> None:
    images = pictures(5, (32, 40) if crop else None)
    good = [on_host(image) for image in decode(make(backend, crop=crop), images).image]
    for position in range(5):
        spoilt = pictures(5, images.target)
        spoilt.payloads[position] = np.frombuffer(bad, np.uint8)
        decoded = decode(make(backend, crop=crop), spoilt)
        assert list(decoded.failures) == [position]
        assert decoded.failures[position]
        expected = good[:position] + good[position + 1 :]
        assert len(decoded.image) == 4
        assert all(difference(a, b).max() == 0 for a, b in zip(decoded.image, expected, strict=True))


def test_bad_images_in_several_batches_under_way_lose_and_reorder_nothing(backend: Backend, make: MakeDecoder) -> None:
    decoder, target = make(backend, depth=4), (16, 16)
    # Which images of which batch are bad; all of them, in one.
    bad = [[], [3], [0, 5], [], [0, 1, 2, 3, 4, 5], [2], []]
    todo = []
    for number, positions in enumerate(bad):
        images = pictures(6, target, seed=10 * number)
        for position in positions:
            images.payloads[position] = np.frombuffer(BAD[position % len(BAD)], np.uint8)
        todo.append(images)
    decoded = []
    for index in range(len(todo) + 3):
        if index < len(todo):
            decoder.submit(todo[index])
        if index >= 3:
            decoded.append(decoder.collect())
    assert [list(result.failures) for result in decoded] == bad
    for number, result in enumerate(decoded):
        expected = decode(make(backend), pictures(6, target, seed=10 * number)).image
        kept = [index for index in range(6) if index not in bad[number]]
        if not kept:
            assert result.image is None
            continue
        assert difference(result.image, on_host(expected)[kept]).max() == 0


def test_too_many_pixels_are_not_decoded(backend: Backend, make: MakeDecoder) -> None:
    shapes = [(20, 20), (40, 40), (20, 20)]
    images = batch([encode(picture(*shape)) for shape in shapes], shapes, (16, 16))
    decoded = decode(make(backend, max_pixels=1000), images)
    assert decoded.failures == {1: "too-many-pixels: 40 x 40, at most 1000 pixels are allowed"}
    assert len(decoded.image) == 2
    assert decode(make(backend, max_pixels=100), images).image is None


def test_more_than_depth_batches_are_refused(backend: Backend, make: MakeDecoder) -> None:
    decoder = make(backend, depth=2)
    with pytest.raises(RuntimeError, match="no batch"):
        decoder.collect()
    decoder.submit(pictures(2, (16, 16)))
    decoder.submit(pictures(2, (16, 16)))
    with pytest.raises(RuntimeError, match="2 batches are under way"):
        decoder.submit(pictures(2, (16, 16)))
    assert len(decoder.collect().image) == len(decoder.collect().image) == 2


def test_close_with_work_under_way_returns_at_once_and_leaves_no_thread(backend: Backend, make: MakeDecoder) -> None:
    threads = set(threading.enumerate())
    decoder = make(backend, depth=3)
    for seed in range(3):
        decoder.submit(pictures(16, (64, 64), seed=seed, side=200))
    started = time.monotonic()
    decoder.close()
    assert time.monotonic() - started < 10
    assert set(threading.enumerate()) == threads
    with pytest.raises(RuntimeError, match="closed"):
        decoder.submit(pictures(1, (16, 16)))
    decoder.close()


@pytest.mark.parametrize("crop", [True, False])
def test_what_was_handed_out_stays_as_it_is(backend: Backend, make: MakeDecoder, crop: bool) -> None:
    target = (48, 64) if crop else None
    decoder = make(backend, crop=crop)
    held = decode(decoder, pictures(8, target)).image
    before = [on_host(image).copy() for image in held]
    for seed in range(20):
        decode(decoder, pictures(8, target, seed=seed + 100))
    assert all(np.array_equal(on_host(image), copy) for image, copy in zip(held, before, strict=True))
    decoder.close()
    del decoder
    gc.collect()
    assert all(np.array_equal(on_host(image), copy) for image, copy in zip(held, before, strict=True))


def test_dropped_batches_give_their_memory_back(backend: Backend, make: MakeDecoder) -> None:
    decoder, images = make(backend), pictures(16, (256, 256))
    for _ in range(3):
        decode(decoder, images)
    before = resident_mib()
    for _ in range(100):  # 300 MiB if they were kept
        decode(decoder, images)
    assert resident_mib() - before < 60


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def test_the_payloads_are_let_go_when_their_batch_is_collected(backend: Backend, make: MakeDecoder) -> None:
    decoder, memory = make(backend), bytearray(encode(picture(32, 32)))
    images = batch([b""], [(32, 32)], (16, 16))
    images.payloads = [np.frombuffer(memory, np.uint8)]
    decoder.submit(images)
    del images
    decoder.collect()
    memory.append(0)  # raises BufferError while anyone looks at it


def test_images_on_the_cpu_are_plain_arrays_that_may_be_written(make: MakeDecoder, backend: Backend) -> None:
    if backend.device != "cpu":
        pytest.skip("on a GPU it is a DeviceArray")
    image = decode(make(backend), pictures(2, (16, 16))).image
    assert type(image) is np.ndarray
    assert image.flags.c_contiguous
    image[0, 0, 0] = 7
    assert np.from_dlpack(image)[0, 0, 0].tolist() == [7, 7, 7]
