"""What DALI refuses and Pillow decodes is delivered, and what both refuse says so."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import psutil
import pytest
from PIL import Image

from datago_gpu.decoders.decoder import Decoder
from datago_gpu.decoders.fallback import replace_refused
from datago_gpu.decoders.select import choose
from tests.decoders.conftest import MakeDecoder
from tests.support.pictures import batch, decode, difference, encode, on_host, oriented_jpeg, picture

PIXELS = picture(40, 64)
UNKNOWN_TO_DALI = {kind: encode(PIXELS, kind, lossless=True, quality=100) for kind in ("GIF", "AVIF", "TGA")}


@pytest.fixture
def dali(make: MakeDecoder, device: str, crop: bool) -> Decoder:
    return make(choose(device, "dali"), crop=crop)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("kind", UNKNOWN_TO_DALI)
def test_a_format_that_dali_does_not_know_is_decoded_by_pillow(dali: Decoder, crop: bool, kind: str) -> None:
    good, other = encode(PIXELS), UNKNOWN_TO_DALI[kind]
    payloads = [good, other, b"<html>", other, good]
    decoded = decode(dali, batch(payloads, [(40, 64)] * 5, (24, 40) if crop else None))
    assert list(decoded.failures) == [2]
    assert decoded.failures[2].startswith("DALI: ")
    assert decoded.failures[2].endswith("Pillow: begins with b'<html>'")
    assert len(decoded.image) == 4
    for image in decoded.image:
        assert difference(image, decoded.image[0]).mean() <= (12 if kind == "GIF" else 2)


@pytest.mark.parametrize("crop", [True, False])
def test_its_orientation_and_region_are_kept(dali: Decoder, crop: bool) -> None:
    turned = encode(Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90), "TGA")
    target, region = ((16, 24), (3.0, 5.0, 20.0, 30.0)) if crop else (None, (0.0, 0.0, 40.0, 64.0))
    images = batch([turned, encode(PIXELS)], [(40, 64)] * 2, target, regions=[region] * 2, orientations=[6, 1])
    decoded = decode(dali, images)
    assert not decoded.failures
    assert difference(decoded.image[0], decoded.image[1]).max() <= 2


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("memory_mb", [None, 1])
def test_it_is_mirrored_like_the_others(make: MakeDecoder, device: str, crop: bool, memory_mb: int | None) -> None:
    """Also where a batch is decoded in portions."""
    pixels = picture(200, 320)
    one, other = encode(pixels), encode(pixels, "TGA")
    plain = batch([one, other, other, one] * 2, [(200, 320)] * 8, (24, 40) if crop else None)
    flips = np.array([True, True, False, False] * 2)
    decoder = make(choose(device, "dali"), crop=crop, flip=0.5, memory_mb=memory_mb)
    decoded, expected = decode(decoder, replace(plain, flipped=flips)), decode(decoder, plain)
    assert not decoded.failures
    for image, before, flipped in zip(decoded.image, expected.image, flips, strict=True):
        assert np.array_equal(on_host(image), on_host(before)[:, ::-1] if flipped else on_host(before))


@pytest.mark.parametrize("crop", [True])
def test_a_header_that_dali_reads_otherwise_is_left_to_pillow(dali: Decoder, crop: bool) -> None:
    """The feeder bounds the size that it reads; what DALI would decode must be of that size."""
    images = batch([encode(PIXELS), encode(PIXELS)], [(40, 64), (20, 20)], (16, 16))
    decoded = decode(dali, images)
    assert not decoded.failures
    top_left = np.asarray(Image.fromarray(PIXELS[:20, :20]).resize((16, 16), Image.Resampling.LANCZOS))
    assert difference(decoded.image[1], top_left).mean() <= 2


@pytest.mark.parametrize("crop", [True])
def test_where_nobody_says_which_image_is_bad_pillow_decodes_all(
    dali: Decoder, crop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvImageCodec and DALI might judge otherwise. The batch behind is not touched by it."""
    monkeypatch.setattr("datago_gpu.decoders.dali.find_undecodable", lambda *_: [])
    turned = oriented_jpeg(PIXELS, 6)
    payloads, sizes = [encode(PIXELS), cut_in_the_pixels(), turned, encode(PIXELS)], [(40, 64)] * 4
    dali.submit(batch(payloads, sizes, (24, 40), orientations=[1, 1, 6, 1]))
    dali.submit(batch([encode(PIXELS)], sizes[:1], (24, 40)))
    decoded, behind = dali.collect(), dali.collect()
    assert list(decoded.failures) == [1]
    assert not behind.failures
    for image in decoded.image:
        assert difference(image, behind.image[0]).mean() <= 2


def test_refused_batches_leave_no_pipelines_behind(make: MakeDecoder) -> None:
    decoder, process, threads = make(choose("cpu", "dali")), psutil.Process(), []
    for _ in range(5):
        decoded = decode(decoder, batch([encode(PIXELS), cut_in_the_pixels()], [(40, 64)] * 2, (24, 40)))
        assert list(decoded.failures) == [1]
        threads.append(process.num_threads())
    assert len(set(threads)) == 1, threads


def cut_in_the_pixels() -> bytes:
    """A PNG with a good header whose compressed pixels are none."""
    payload = bytearray(encode(PIXELS))
    at = payload.index(b"IDAT") + 4
    size = int.from_bytes(payload[at - 8 : at - 4])
    payload[at] ^= 0xFF
    payload[at + size : at + size + 4] = zlib.crc32(payload[at - 4 : at + size]).to_bytes(4)
    return bytes(payload)


def test_without_refusals_the_batch_stays_as_it_is() -> None:
    images = batch([encode(PIXELS)], [(40, 64)], None)
    assert replace_refused(images, {}, 10_000) == (images, {})


def test_the_limit_on_pixels_holds_for_pillow_too() -> None:
    images = batch([encode(PIXELS)] * 2, [(40, 64)] * 2, None)
    unchanged = images.payloads[:]
    changed, failures = replace_refused(images, {1: "no"}, 100)
    assert failures == {1: "DALI: no; Pillow: 40 x 64, at most 100 pixels are allowed"}
    assert changed.payloads == images.payloads == unchanged
