"""The quick way for JPEGs gives what Pillow gives, to the pixel, or leaves the picture to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.errors import Rejected
from datago_gpu.imaging import jpeg
from datago_gpu.imaging.geometry import Region, Size, cover_region, full_region
from datago_gpu.imaging.jpeg import render_jpeg
from datago_gpu.imaging.pixels import render, render_array
from tests.support.needs import needs
from tests.support.pictures import encode, oriented_jpeg, picture

needs("simplejpeg")

LIMIT = 10_000_000
JPEG = encode(picture(61, 93), "JPEG", quality=90)


def both_ways(payload: bytes, region: Region, orientation: int, target: Size | None, *, draft: bool = True) -> None:
    view = memoryview(payload)
    found = render_jpeg(view, [(region, target)], orientation, draft=draft, max_pixels=LIMIT)
    assert found is not None
    (quick,) = found
    slow = render(view, region, orientation, target, draft=draft, max_pixels=LIMIT)
    assert np.array_equal(quick, np.asarray(slow))


@pytest.mark.parametrize("target", [None, (24, 40)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(orientation: int, target: Size | None) -> None:
    pixels = picture(60, 101)
    region = (3.0, 5.0, 48.0, 80.0) if target else full_region(60, 101)
    both_ways(oriented_jpeg(pixels, orientation), region, orientation, target)


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:4:4"},
        {"progressive": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
        {"optimize": True, "quality": 10},
    ],
    ids=str,
)
@pytest.mark.parametrize("draft", [True, False])
def test_every_sort_of_colour_jpeg_has_pillows_pixels(options: dict[str, object], draft: bool) -> None:
    payload = encode(picture(203, 151), "JPEG", **options)
    for target in (None, (90, 64), (37, 29), (20, 20)):
        region = cover_region(203, 151, target) if target else full_region(203, 151)
        both_ways(payload, region, 1, target, draft=draft)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_region_and_size_has_pillows_pixels(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130))
    high, wide = data.draw(st.floats(0.5, height)), data.draw(st.floats(0.5, width))
    region = data.draw(st.floats(0, height - high)), data.draw(st.floats(0, width - wide)), high, wide
    target = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    payload = encode(picture(height, width, seed=data.draw(st.integers(0, 5))), "JPEG")
    both_ways(payload, region, 1, target, draft=data.draw(st.booleans()))


@pytest.mark.parametrize(
    "payload",
    [
        encode(picture(61, 93), "PNG"),
        encode(Image.fromarray(picture(61, 93)).convert("L"), "JPEG"),
        encode(Image.fromarray(picture(61, 93)).convert("CMYK"), "JPEG"),
        JPEG[:-2],
        JPEG[: len(JPEG) // 2],
        JPEG[: len(JPEG) // 2] + b"\xff\xd9",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8",
        b"",
    ],
    ids=["png", "gray", "cmyk", "no end", "half", "half, ended", "empty", "two bytes", "nothing"],
)
def test_what_is_unusual_is_left_to_pillow(payload: bytes) -> None:
    assert render_jpeg(memoryview(payload), [(full_region(61, 93), (8, 8))], 1, draft=True, max_pixels=LIMIT) is None


@pytest.mark.parametrize("error", [KeyError(6), RuntimeError("of any kind")])
@pytest.mark.parametrize("call", ["decode_jpeg_header", "decode_jpeg"])
def test_whatever_the_library_raises_pillow_decodes(
    monkeypatch: pytest.MonkeyPatch, call: str, error: Exception
) -> None:
    view = memoryview(JPEG)
    quick = render_array(view, full_region(61, 93), 1, (30, 45), draft=True, max_pixels=LIMIT)

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(jpeg.simplejpeg, call, fail)
    assert np.array_equal(render_array(view, full_region(61, 93), 1, (30, 45), draft=True, max_pixels=LIMIT), quick)


def test_a_lack_of_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", fail)
    with pytest.raises(MemoryError):
        render_array(memoryview(JPEG), full_region(61, 93), 1, (30, 45), draft=True, max_pixels=LIMIT)


def test_a_picture_with_too_many_pixels_is_not_decoded() -> None:
    view = memoryview(JPEG)
    assert render_jpeg(view, [(full_region(61, 93), (8, 8))], 1, draft=True, max_pixels=61 * 93) is not None
    assert render_jpeg(view, [(full_region(61, 93), (8, 8))], 1, draft=True, max_pixels=61 * 93 - 1) is None
    with pytest.raises(Rejected, match="61 x 93, at most 5672 pixels are allowed"):
        render_array(view, full_region(61, 93), 1, (8, 8), draft=True, max_pixels=61 * 93 - 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_region_outside_costs_the_picture(kind: str) -> None:
    """As where two headers contradict each other, and the feeder has read the other one."""
    payload = memoryview(encode(picture(61, 93), kind))
    with pytest.raises(Rejected) as caught:
        render_array(payload, (200.0, 300.0, 40.0, 50.0), 1, (20, 30), draft=True, max_pixels=LIMIT)
    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_array_has_the_pixels_and_a_mask_has_one_channel(kind: str) -> None:
    payload = memoryview(encode(picture(61, 93), kind))
    image = render_array(payload, full_region(61, 93), 1, (30, 45), draft=True, max_pixels=LIMIT)
    mask = render_array(payload, full_region(61, 93), 1, (30, 45), draft=True, max_pixels=LIMIT, mask="nearest")
    assert (image.shape, mask.shape) == ((30, 45, 3), (30, 45, 1))


def test_where_the_library_cannot_be_had_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    view, options = memoryview(JPEG), {"draft": True, "max_pixels": LIMIT}
    quick = render_array(view, full_region(61, 93), 1, (30, 45), **options)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert render_jpeg(view, [(full_region(61, 93), (30, 45))], 1, **options) is None
    assert np.array_equal(render_array(view, full_region(61, 93), 1, (30, 45), **options), quick)
