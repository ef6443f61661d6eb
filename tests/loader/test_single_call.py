"""`decode`: the pixels of a Loader by a single call, and what it says about images that cannot be decoded."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import datago_gpu
from datago_gpu import ConfigError, DecodeError, ImageConfig, Loader, Row, decode
from datago_gpu.decoders.select import Backend
from tests.support.images import SHAPES
from tests.support.pictures import on_host

IMAGES: dict[str, Any] = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
SQUARE = {**IMAGES, "min_aspect_ratio": 1.0, "max_aspect_ratio": 1.0}
BAD = {"empty": b"", "unknown-format": b"no image", "undecodable": b""}


def picture(number: int, form: str = "JPEG", mode: str = "RGB") -> bytes:
    height, width = SHAPES[number % len(SHAPES)]
    column = np.linspace(0, 200, width, dtype=np.uint8)
    pixels = np.stack([np.tile(column, (height, 1)), np.full((height, width), number * 9 % 256, np.uint8)], axis=2)
    whole = np.concatenate([pixels, pixels[..., :1]], axis=2)
    file = io.BytesIO()
    Image.fromarray(whole).convert(mode).save(file, form)
    return file.getvalue()


MIXED = [
    *map(picture, range(4)),
    picture(4, "PNG"),
    picture(5, "GIF", "P"),
    picture(6, "BMP"),
    picture(7, "JPEG", "CMYK"),
    picture(8, "PNG", "RGBA"),
    picture(9, "WEBP"),
]
BAD["undecodable"] = MIXED[1][:-30]


CHANGES: list[dict[str, Any]] = [
    {},
    {"crop_and_resize": False},
    {"layout": "CHW", "dtype": "float32"},
    {"crop": "random_resized", "flip": 0.5},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_pixels_are_those_of_a_loader(changes: dict[str, Any], backend: Backend) -> None:
    config = {"image_config": {**IMAGES, **changes}, "decode_config": {"processes": 0}}
    rows = [Row(str(at), payload) for at, payload in enumerate(MIXED)]
    with Loader(config, backend.device, backend.name, source=rows) as loader:
        wanted = {sample.id: sample for batch in loader for sample in batch}
    batch = decode(MIXED, {**IMAGES, **changes}, backend.device, backend.name)
    assert batch.ids == [str(at) for at in range(len(MIXED))]
    for sample in batch:
        other = wanted[sample.id]
        assert np.array_equal(on_host(sample.image), on_host(other.image))
        assert (sample.original_size, sample.crop) == (other.original_size, other.crop)


def test_images_of_one_bucket_are_one_array_and_others_a_list(backend: Backend) -> None:
    same = decode([picture(0), picture(3)], IMAGES, backend.device, backend.name)
    assert (same.image.shape, same.bucket) == ((2, 64, 64, 3), (64, 64))
    square = decode(MIXED, SQUARE, backend.device, backend.name)
    assert square.image.shape == (len(MIXED), 64, 64, 3)
    mixed = decode([picture(0), picture(1)], IMAGES, backend.device, backend.name)
    assert ([image.shape for image in mixed.image], mixed.bucket) == ([(64, 64, 3), (48, 80, 3)], None)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["", *BAD]), min_size=1, max_size=8))
def test_bad_images_are_named_by_position_and_reason_or_left_out(kinds: list[str]) -> None:
    payloads = [BAD[kind] if kind else picture(at) for at, kind in enumerate(kinds)]
    good = [at for at, kind in enumerate(kinds) if not kind]
    if good:
        batch = decode(payloads, ImageConfig(**SQUARE), "cpu", on_error="skip")
        assert batch.ids == [str(at) for at in good]
        assert len(batch.image) == len(good)
        assert np.array_equal(batch.image[0], decode([payloads[good[0]]], SQUARE, "cpu").image[0])
    if len(good) < len(kinds):
        with pytest.raises(DecodeError) as caught:
            decode(payloads, SQUARE, "cpu", on_error="raise" if good else "skip")
        first = next(at for at, kind in enumerate(kinds) if kind)
        assert (caught.value.id, caught.value.where) == (str(first), f"payloads[{first}]")
        assert caught.value.reason == kinds[first]


def test_an_image_that_only_the_decoder_refuses_is_named_too(backend: Backend) -> None:
    jpeg = picture(0)
    hollow = jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9"
    with pytest.raises(DecodeError, match=r"sample '1' \(payloads\[1\]\): undecodable"):
        decode([jpeg, hollow], IMAGES, backend.device, backend.name)
    batch = decode([hollow, jpeg], IMAGES, backend.device, backend.name, on_error="skip")
    assert (batch.ids, batch.image.shape) == (["1"], (1, 64, 64, 3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: decode([]), "payloads is empty"),
        (lambda: decode(picture(0)), r"payloads must be a list of encoded images, got bytes: use \[payload\]"),
        (lambda: decode(["a.jpg"]), r"payloads\[0\] must be the bytes of an encoded image, got str"),  # type: ignore[list-item]
        (
            lambda: decode([np.zeros((2, 2, 3), np.uint8)]),
            r"payloads\[0\] must be the bytes of an encoded image, got nda",
        ),  # type: ignore[list-item]
        (lambda: decode([b""] * 4097), "payloads has 4097 images, but a call takes at most 4096"),
        (lambda: decode([b"x"], {"dtype": "int8"}), "image_config.dtype must be"),
        (lambda: decode([b"x"], on_error="ignore"), "on_error must be 'raise' or 'skip', got 'ignore'"),  # type: ignore[arg-type]
        (lambda: decode([b"x"], decode_config={"threads": 0}), "decode_config.threads must be"),
        (lambda: decode([b"x"], device="gpu"), "device must be"),
    ],
)
def test_what_cannot_work_is_a_config_error(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()


def test_other_bytes_iterables_and_defaults() -> None:
    forms = (bytes, bytearray, memoryview, lambda payload: np.frombuffer(payload, np.uint8))
    batch = decode((form(picture(0)) for form in forms), device="cpu")
    assert [image.shape for image in batch.image] == [(40, 40, 3)] * 4
    limited = {"max_pixels": 100}
    with pytest.raises(DecodeError, match="too-many-pixels"):
        decode([picture(0)], device="cpu", decode_config=limited)


def test_many_threads_may_call_at_once_and_nothing_stays_behind() -> None:
    wanted = decode(MIXED, SQUARE, "cpu").image
    before = set(threading.enumerate())
    with ThreadPoolExecutor(4) as pool:
        for batch in pool.map(lambda _: decode(MIXED, SQUARE, "cpu"), range(8)):
            assert np.array_equal(batch.image, wanted)
    assert set(threading.enumerate()) <= before


def test_function_and_batch_go_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(datago_gpu.decode)) is datago_gpu.decode
    batch = pickle.loads(pickle.dumps(decode(MIXED[:2], SQUARE, "cpu")))
    assert (batch.ids, batch.image.shape) == (["0", "1"], (2, 64, 64, 3))
