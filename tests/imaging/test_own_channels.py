"""Images with the channels and the depth that they have by themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from datago_gpu import Loader
from datago_gpu.decoders.select import Backend
from datago_gpu.errors import Rejected
from datago_gpu.imaging.geometry import cover_region, full_region
from datago_gpu.imaging.own_channels import own_header, render_own
from tests.support.made.png import png
from tests.support.pictures import difference, encode, on_host, picture

LIMIT = 10**6


def png16(pixels: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    return png(pixels, 16)


def own(payload: bytes, target: tuple[int, int] | None = None, orientation: int = 1) -> NDArray[Any]:
    header = own_header(payload, LIMIT)
    size = header[0] if header else Image.open(io.BytesIO(payload)).size[::-1]
    region = cover_region(*size, target) if target else full_region(*size)
    return render_own(memoryview(payload), region, orientation, target, draft=True, max_pixels=LIMIT)


RGB = picture(40, 60)
GRAY, ALPHA = RGB[:, :, :1], 255 - RGB[:, :, 1:2]


@pytest.mark.parametrize(
    ("payload", "channels"),
    [
        (encode(Image.fromarray(GRAY[:, :, 0])), 1),
        (encode(Image.fromarray(GRAY[:, :, 0]), "JPEG"), 1),
        (encode(Image.fromarray(GRAY[:, :, 0] > 99)), 1),
        (encode(np.dstack([GRAY, ALPHA])), 2),
        (encode(RGB), 3),
        (encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"), 3),
        (encode(Image.fromarray(RGB).quantize(8)), 3),
        (encode(np.dstack([RGB, ALPHA])), 4),
        (encode(np.dstack([RGB, ALPHA]), "WEBP", lossless=True), 4),
        (encode(Image.fromarray(RGB).quantize(8), transparency=3), 4),
        (encode(Image.fromarray(RGB).quantize(8), "GIF"), 4),
    ],
)
def test_channels_are_the_images_own(payload: bytes, channels: int) -> None:
    assert own(payload).shape == (40, 60, channels)
    assert own(payload, (32, 32)).shape == (32, 32, channels)
    assert own(payload).dtype == np.uint8


@pytest.mark.parametrize("pixels", [GRAY, np.dstack([GRAY, ALPHA]), RGB, np.dstack([RGB, ALPHA])])
def test_lossless_pixels_are_kept(pixels: NDArray[np.uint8]) -> None:
    payload = encode(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    assert np.array_equal(own(payload), pixels)
    assert own(payload).flags.writeable


@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))))
def test_all_16_bits_are_kept(pixels: NDArray[np.uint16]) -> None:
    shown = own(png16(pixels))
    assert shown.dtype == np.uint16
    assert np.array_equal(shown, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_scaled_as_8_bits_are(channels: int) -> None:
    pixels = np.dstack([RGB, ALPHA])[:, :, [0, 3] if channels == 2 else range(channels)]
    deep = own(png16(pixels.astype(np.uint16) * 257), (24, 32))
    flat = own(encode(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)), (24, 32))
    off = difference(deep / 257, flat)
    assert off.mean() <= 1
    assert off.max() <= (10 if channels in (2, 4) else 1.1)  # colour is divided by alpha, which is coarse in 8 bits


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bits_are_turned_as_8_bits_are(orientation: int) -> None:
    target = (20, 28)
    region = cover_region(*((40, 60) if orientation < 5 else (60, 40)), target)
    deep, flat = (
        render_own(memoryview(payload), region, orientation, target, draft=False, max_pixels=LIMIT)
        for payload in (png16(RGB.astype(np.uint16) * 257), encode(RGB))
    )
    assert difference(deep / 257, flat).max() <= 1.1


def test_transparent_pixels_do_not_bleed() -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, 20:] = (200, 100, 50, 255)
    shown = own(encode(pixels), (20, 20))
    assert difference(shown[:, 12:, :3], np.array([200, 100, 50])).max() <= 1


@pytest.mark.parametrize(
    "payload", [b"", b"no image", encode(np.dstack([RGB, ALPHA]))[:60], png16(RGB.astype("u2"))[:200]]
)
def test_what_is_no_image_is_undecodable(payload: bytes) -> None:
    with pytest.raises(Rejected):
        own(payload)


def test_pixels_are_bounded_by_the_header() -> None:
    with pytest.raises(Rejected, match="too-many-pixels"):
        own_header(encode(np.dstack([RGB, ALPHA])), 100)


def test_a_loader_keeps_them_in_order_on_both_back_ends(tmp_path: Path, backend: Backend) -> None:
    rgb16 = RGB.astype(np.uint16) * 257
    (tmp_path / "a.png").write_bytes(encode(RGB))
    (tmp_path / "b.png").write_bytes(png16(rgb16))
    (tmp_path / "c.jpg").write_bytes(encode(RGB, "JPEG")[:300])
    (tmp_path / "d.png").write_bytes(encode(np.dstack([RGB, ALPHA])))
    (tmp_path / "e.jpg").write_bytes(encode(Image.fromarray(GRAY[:, :, 0]), "JPEG"))
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(tmp_path)},
        "image_config": {"image_to_rgb8": False},
        "batch_size": 5,
    }
    with Loader(config, device=backend.device, backend=backend.name) as loader:
        (only,) = loader
        assert loader.stats().skipped == {"undecodable": 1}
    assert only.ids == ["a.png", "b.png", "d.png", "e.jpg"]
    assert [(each.shape[2], each.dtype) for each in only.image] == [(3, "u1"), (3, "u2"), (4, "u1"), (1, "u1")]
    assert np.array_equal(on_host(only.image[0]), RGB)
    assert np.array_equal(on_host(only.image[1]), rgb16)
    assert np.array_equal(on_host(only.image[2])[:, :, 3:], ALPHA)


def test_mixed_buckets_come_in_the_sources_order_each_at_its_size(tmp_path: Path, backend: Backend) -> None:
    shapes = [(40, 40), (30, 60), (60, 30), (30, 60), (40, 40)]
    for number, (height, width) in enumerate(shapes):
        Image.fromarray(picture(height, width, number)).save(tmp_path / f"{number}.png")
    image = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
    config = {"source_type": "file", "source_config": {"root_path": str(tmp_path)}, "batch_size": 2}
    with Loader({**config, "image_config": image}, device=backend.device, backend=backend.name) as loader:
        alone = {sample.id: on_host(sample.image) for sample in loader.samples()}
    with Loader(
        {**config, "image_config": {**image, "mixed_buckets": True}}, device=backend.device, backend=backend.name
    ) as loader:
        batches = list(loader)
    assert [batch.ids for batch in batches] == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]]
    assert [batch.bucket for batch in batches] == [None, None, (64, 64)]
    for batch in batches:
        assert isinstance(batch.image, list)
        for name, pixels in zip(batch.ids, batch.image, strict=True):
            assert np.array_equal(on_host(pixels), alone[name])
