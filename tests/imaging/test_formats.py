"""Which payloads are opened, as what, and which are not."""

from __future__ import annotations

import io
import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.errors import Rejected
from datago_gpu.imaging.formats import open_image
from datago_gpu.imaging.header import read_header
from datago_gpu.imaging.pixels import ConvertedImage, to_ppm
from datago_gpu.imaging.scans import MOST_SCANS, count_scans
from tests.support.made.jpeg import segment
from tests.support.pictures import difference, encode, picture, uncut

LIMIT = 100_000_000
PIXELS = picture(32, 32)
RGB = Image.fromarray(PIXELS)


def convert(payload: bytes, max_pixels: int = LIMIT) -> ConvertedImage:
    """Whole, as the feeder has it done."""
    return to_ppm(payload, uncut, max_pixels)


@pytest.mark.parametrize("kind", ["DIB", "ICNS", "ICO", "PCX", "QOI", "SGI", "TGA", "DDS"])
def test_a_rare_format_is_known_by_its_bytes_and_has_its_pixels(kind: str) -> None:
    options: dict[str, Any] = {"sizes": [(32, 32)]} if kind == "ICO" else {}
    converted = convert(encode(RGB, kind, **options))
    shown = np.asarray(Image.open(io.BytesIO(converted.payload)))
    size = shown.shape[1], shown.shape[0]  # an ICNS holds larger sizes only
    assert difference(shown, np.asarray(RGB.resize(size, Image.Resampling.BICUBIC))).mean() <= (
        3 if kind == "ICNS" else 0
    )


@pytest.mark.parametrize("kind", ["TIFF", "SPIDER"])
def test_floating_point_pixels_are_levels_that_are_clipped(kind: str) -> None:
    levels = np.array([[-1e9, 0, 1, 128, 255, 1e9]] * 6, np.float32)
    converted = convert(encode(Image.fromarray(levels), kind))
    assert np.asarray(Image.open(io.BytesIO(converted.payload)))[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]


def test_no_program_is_started_for_a_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript for EPS, also where it is inside of an IPTC file."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    eps = encode(RGB, "EPS")
    for payload in (eps, eps[eps.index(b"%%") :], b"\x1c\x03\x0a\x00\x02\x01\x00" + eps):
        with pytest.raises(Rejected, match="unknown-format"):
            convert(payload)


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\0\0\2\0", b"*", b"DDS |\0\0\0", b"qoif", b"8BPS\0\1", b"BLP2"])
)
def test_random_bytes_are_refused_or_opened_and_raise_nothing_else(payload: bytes, prefix: bytes) -> None:
    try:
        height, width = convert(prefix + payload, 1_000_000).size
    except Rejected:
        return
    assert 0 < height * width <= 1_000_000


def test_a_rare_format_is_refused_by_its_header_too() -> None:
    bomb = encode(RGB, "TGA")[:12] + b"\xff\xff\xff\xff" + encode(RGB, "TGA")[16:]
    with pytest.raises(Rejected, match="too-many-pixels: 65535 x 65535"):
        open_image(bomb, LIMIT)


def test_a_progressive_jpeg_of_endless_scans_is_refused() -> None:
    payload = encode(RGB, "JPEG", progressive=True)
    last_scan = payload[payload.rindex(b"\xff\xda") : -2]
    assert read_header(payload).plain

    def repeated(times: int) -> bytes:
        return payload[:-2] + last_scan * times + payload[-2:]

    usual = count_scans(payload)
    assert usual == payload.count(b"\xff\xda")
    most = repeated(MOST_SCANS - usual)
    assert read_header(most).plain
    assert convert(most).size == (32, 32)
    assert not read_header(repeated(MOST_SCANS)).plain
    message = f"{MOST_SCANS + usual} scans in a progressive JPEG, at most {MOST_SCANS} are allowed"
    with pytest.raises(Rejected, match=message):
        convert(repeated(MOST_SCANS))


LIKE_SCANS = b"\xff\xda" * 2 * MOST_SCANS
PROGRESSIVE = encode(RGB, "JPEG", progressive=True)


@pytest.mark.parametrize(
    "payload",
    [
        PROGRESSIVE[:2] + segment(0xE2, LIKE_SCANS) + PROGRESSIVE[2:],
        PROGRESSIVE[:2] + segment(0xFE, LIKE_SCANS) + PROGRESSIVE[2:],
        PROGRESSIVE[:-2] + segment(0xFE, LIKE_SCANS) + PROGRESSIVE[-2:],
        PROGRESSIVE + LIKE_SCANS,
        PROGRESSIVE[:2] + b"\xff" * 9 + segment(0xE2, LIKE_SCANS)[1:] + PROGRESSIVE[2:],
    ],
    ids=["profile", "comment", "comment behind a scan", "behind the end", "fill bytes"],
)
def test_only_what_is_a_scan_counts_as_one(payload: bytes) -> None:
    assert count_scans(payload) == count_scans(PROGRESSIVE) == PROGRESSIVE.count(b"\xff\xda")
    assert difference(np.asarray(Image.open(io.BytesIO(convert(payload).payload))), PIXELS).mean() < 4


@pytest.mark.parametrize(
    "hidden",
    [
        b"\xff\x02\xff\xff",  # no marker has a length below C0
        b"\xff\x01\xff\xff",  # nor has TEM
        b"\xff\xd0\xff\xff",  # nor has a restart
        b"\xff\xfe\x00\x00",  # a length includes itself
        b"\xff\x00",
        b"\xff",
    ],
)
def test_scans_are_not_hidden_by_what_libjpeg_does_not_skip(hidden: bytes) -> None:
    scan = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
    assert count_scans(PROGRESSIVE[:-2] + hidden + scan * 2 * MOST_SCANS + PROGRESSIVE[-2:]) > 2 * MOST_SCANS


def test_a_payload_of_countless_markers_is_not_walked_through() -> None:
    payload = PROGRESSIVE[:2] + b"\xff\xe0\x00\x02" * 20_000 + LIKE_SCANS + PROGRESSIVE[2:]
    assert count_scans(payload) > MOST_SCANS
