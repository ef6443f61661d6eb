"""What the index finds by a header is what a Loader makes of the whole image."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.admit import Admission
from datago_gpu.index.look import Look, Looker
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo
from tests.support.made.kinds import KINDS
from tests.support.pictures import encode, oriented_jpeg, picture

CONFIG = LoaderConfig.load({"source_type": "file", "source_config": {"root_path": "x"}})
ADMISSION = Admission(CONFIG)
HEIGHT, WIDTH = 40, 64


def look(payload: bytes, *, near: bool, first: int = 64, config: LoaderConfig = CONFIG) -> tuple[Look, int]:
    """The result, and how many bytes were read for it."""
    read = min(first, len(payload))
    steps = Looker(config, near=near).look(payload[:read], len(payload))
    try:
        begin, end = next(steps)
        while True:
            assert 0 <= begin < end <= len(payload)
            read += end - begin
            begin, end = steps.send(payload[begin:end])
    except StopIteration as done:
        return done.value, read


def verdict(payload: bytes) -> tuple[int, int] | str:
    """What a feeder makes of the image."""
    ref = SampleRef(0, SampleInfo("x"))
    outcome = ADMISSION.quick(ref, payload) or ADMISSION.thorough(ref, payload)
    return outcome.reason if isinstance(outcome, Skipped) else outcome.original_size


def found(look: Look) -> tuple[int, int] | str:
    return look.reason or (look.height, look.width)


@pytest.mark.parametrize("near", [True, False])
def test_each_kind_has_the_size_that_a_loader_sees(near: bool) -> None:
    payloads = {name: kind.payload for name, kind in KINDS.items()}
    seen = {name: found(look(payload, near=near)[0]) for name, payload in payloads.items()}
    assert seen == {name: verdict(payload) for name, payload in payloads.items()}


def test_no_image_is_too_small_for_an_index() -> None:
    """What is too small is decided where the index is loaded."""
    image = {"crop_and_resize": True, "upscale": False}
    config = LoaderConfig.load(
        {"source_type": "file", "source_config": {"root_path": "x", "min_short_edge": 500}, "image_config": image}
    )
    for name, kind in KINDS.items():
        assert found(look(kind.payload, near=True, config=config)[0]) == verdict(kind.payload), name


def turned(kind: str) -> bytes:
    image = picture(HEIGHT, WIDTH)
    if kind == "jpeg":
        return oriented_jpeg(image, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, kind, exif=exif)


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("kind", ["jpeg", "PNG", "WEBP", "TIFF", "AVIF"])
def test_sizes_are_upright(kind: str, near: bool) -> None:
    payload = turned(kind)
    expected = (HEIGHT, WIDTH) if kind == "jpeg" else (WIDTH, HEIGHT)
    assert found(look(payload, near=near)[0]) == verdict(payload) == expected


def test_a_remote_image_is_read_up_to_its_pixels() -> None:
    large = picture(600, 800)
    for kind in ("JPEG", "PNG", "WEBP"):
        payload = encode(large, kind)
        result, read = look(payload, near=False)
        assert result == Look(600, 800, kind.lower())
        assert read < 2000 < len(payload)


def test_a_header_that_is_longer_than_the_first_bytes_is_read_on() -> None:
    payload = encode(picture(30, 50), "JPEG", icc_profile=bytes(300_000)) + bytes(500_000)
    result, read = look(payload, near=False, first=1024)
    assert result == Look(30, 50, "jpeg")
    assert 300_000 < read < 700_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_local_file_that_ends_early_is_found(kind: str) -> None:
    payload = encode(picture(200, 300), kind)
    cut = payload[: len(payload) // 2]
    assert look(cut, near=True)[0].reason == verdict(cut) == "undecodable"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 100, "unknown-format"),
        (b"no picture", "unknown-format"),
        (b"\xff\xd8\xff\xe0", "undecodable"),
    ],
)
def test_what_is_no_image_has_the_reason_of_a_loader(payload: bytes, reason: str) -> None:
    for near in (True, False):
        assert look(payload, near=near)[0].reason == verdict(payload) == reason


def test_limits_of_the_settings_hold() -> None:
    config = LoaderConfig.load(
        {
            "source_type": "file",
            "source_config": {"root_path": "x"},
            "decode_config": {"max_pixels": 1000},
            "http_config": {"max_payload_mb": 1},
        }
    )
    for kind in ("JPEG", "PNG", "GIF"):
        assert look(encode(picture(40, 50), kind), near=True, config=config)[0].reason == "too-many-pixels"
    assert look(bytes(2**20 + 1), near=False, config=config)[0].reason == "too-large"


@settings(max_examples=200)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    cut=st.integers(0, 2000),
    at=st.integers(0, 400),
    value=st.integers(0, 255),
    near=st.booleans(),
    first=st.integers(1, 300),
)
def test_no_damage_breaks_it(kind: str, cut: int, at: int, value: int, near: bool, first: int) -> None:
    payload = bytearray(KINDS[kind].payload[: len(KINDS[kind].payload) - cut])
    if at < len(payload):
        payload[at] = value
    result, _ = look(bytes(payload), near=near, first=first)
    assert result.reason or (result.height > 0 and result.width > 0 and result.format)
