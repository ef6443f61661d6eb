"""Conversion with Pillow: what the feeder hands to `to_ppm`, and what the Pillow back end builds on."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from datago_gpu.errors import Rejected
from datago_gpu.imaging.geometry import cover_region, full_region
from datago_gpu.imaging.pixels import render, to_ppm
from tests.support.pictures import Pixels, difference, encode, oriented_jpeg, picture, uncut

LIMIT = 100_000_000


def shown(payload: bytes) -> Pixels:
    """The pixels of `to_ppm`, whole."""
    converted = to_ppm(payload, uncut, LIMIT)
    assert converted.payload.startswith(b"P6\n")
    image = np.asarray(Image.open(io.BytesIO(converted.payload)))
    assert image.shape == (*converted.size, 3) == (*converted.original_size, 3)
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "AVIF", "TIFF", "JPEG2000", "WEBP", "BMP", "PPM", "JPEG"])
def test_every_format_comes_out_with_its_pixels(kind: str) -> None:
    pixels = picture(40, 56)
    options = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "WEBP": {"lossless": True}}.get(kind, {})
    tolerance = {"GIF": 12, "AVIF": 3, "JPEG": 6, "JPEG2000": 1}.get(kind, 0)
    assert difference(shown(encode(pixels, kind, **options)), pixels).mean() <= tolerance


def test_only_the_first_frame_of_an_animation_is_shown() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    payload = encode(red, "GIF", save_all=True, append_images=[blue])
    assert shown(payload)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(("alpha", "level"), [(0, 128), (128, 164), (255, 200)])
def test_transparency_shows_mid_gray(mode: str, alpha: int, level: int) -> None:
    colour = (200, alpha) if mode == "LA" else (200, 200, 200, alpha)
    assert difference(shown(encode(Image.new(mode, (4, 4), colour))), np.full((4, 4, 3), level)).max() <= 1


def test_a_transparent_palette_entry_shows_mid_gray() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    payload = encode(image, "PNG", transparency=1)
    assert shown(payload)[0].tolist() == [[10, 20, 30], [128, 128, 128]]


def test_a_transparent_colour_shows_mid_gray() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (200, 100, 50))
    payload = encode(image, "PNG", transparency=(200, 100, 50))
    assert shown(payload)[0].tolist() == [[10, 20, 30], [128, 128, 128]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.array([[0, 128, 129, 257, 25700, 65535]], np.uint16)
    assert shown(encode(Image.fromarray(levels)))[0, :, 0].tolist() == [0, 0, 1, 1, 100, 255]


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert shown(encode(image))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_cmyk_is_converted() -> None:
    payload = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert difference(shown(payload), np.full((16, 16, 3), (255, 0, 0))).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_is_turned_upright(orientation: int) -> None:
    pixels = picture(40, 64)
    assert difference(shown(oriented_jpeg(pixels, orientation)), pixels).max() <= 12


def test_an_oriented_tiff_is_turned_once() -> None:
    pixels = picture(40, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = encode(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90), "TIFF", exif=exif)
    assert np.array_equal(shown(payload), pixels)


def test_broken_exif_costs_the_orientation_only() -> None:
    pixels = picture(40, 64)
    payload = encode(pixels, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(shown(payload), pixels)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0garbage"])
def test_a_jpeg_with_broken_exif_and_no_resolution_raises_no_warning(exif: bytes) -> None:
    jpeg = encode(picture(40, 64), "JPEG")
    after_jfif = 4 + int.from_bytes(jpeg[4:6])
    payload = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + jpeg[after_jfif:]
    assert render(memoryview(payload), (0, 0, 40, 64), 1, None, draft=True, max_pixels=LIMIT).size == (64, 40)
    assert to_ppm(payload, uncut, LIMIT).size == (40, 64)


def test_the_covering_region_is_cut_to_the_target_as_the_decoder_does_it() -> None:
    pixels, target = picture(90, 150), (32, 48)
    payload = encode(pixels)
    converted = to_ppm(payload, lambda height, width: [(cover_region(height, width, target), target)], LIMIT)
    region = cover_region(90, 150, target)
    same = render(memoryview(payload), region, 1, target, draft=False, max_pixels=LIMIT)
    assert (converted.size, converted.original_size, converted.crop) == (target, (90, 150), region)
    assert converted.payload == b"P6\n48 32\n255\n" + same.tobytes()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "unknown-format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unknown-format"),
        (encode(picture(64, 64))[:200], "undecodable"),
        (encode(picture(64, 64), "JPEG")[:500], "undecodable"),
        (b"\xff\xd8\xff\xe0", "undecodable"),
        (b"GIF89a", "undecodable"),
    ],
)
def test_what_is_no_image_says_why(payload: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        to_ppm(payload, uncut, LIMIT)
    assert caught.value.reason == reason


def test_pixels_are_limited_by_the_header_and_by_nothing_of_pillows() -> None:
    # 95 megapixels: Pillow itself warns from 89 on.
    payload = encode(Image.new("1", (10_000, 9_500)))
    with pytest.raises(Rejected, match="9500 x 10000, at most 90000000 pixels are allowed"):
        to_ppm(payload, uncut, 90_000_000)
    assert to_ppm(payload, lambda height, width: [(full_region(height, width), (8, 16))], LIMIT).size == (
        8,
        16,
    )  # a warning would be an error
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


@pytest.mark.parametrize("shrink", [1.9, 2.0, 3.9, 8.0, 9.0])
def test_a_draft_decode_keeps_the_geometry(shrink: float) -> None:
    target = (31, 45)
    height, width = round(target[0] * shrink) + 1, round(target[1] * shrink) + 3
    payload = memoryview(encode(picture(height, width, seed=3), "JPEG", quality=95, subsampling=0))
    region = cover_region(height, width, target)
    full, quick = (render(payload, region, 1, target, draft=draft, max_pixels=LIMIT) for draft in (False, True))
    assert difference(np.asarray(full), np.asarray(quick)).mean() <= 1.5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_strips_of_a_large_transparent_picture_do_not_show(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.random.default_rng(5).integers(0, 256, (101, 37, 4), np.uint8)
    file = io.BytesIO()
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    Image.fromarray(levels, "RGBA").convert(mode).save(file, "PNG", **options)
    at_once = shown(file.getvalue())
    monkeypatch.setattr("datago_gpu.imaging.levels._STRIP_PIXELS", 37 * 10)
    assert np.array_equal(shown(file.getvalue()), at_once)
