"""Images encoded again: by Pillow with its own threads, and by nvImageCodec behind DALI."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from datago_gpu import ConfigError, Loader, LoaderConfig
from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.encode import Encoder
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import Backend
from tests.support.pictures import batch, decode, difference, encode, picture


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def encoding(backend: Backend, *, mask: bool = False, **settings: Any) -> Any:
    image = ImageConfig(**({"crop_and_resize": True, "pre_encode_images": True} | settings))
    return make_decoder(backend, image, DecodeConfig(threads=2), 8, mask=mask)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_images_come_as_encoded_bytes_of_the_decoded_pixels(backend: Backend, kind: str) -> None:
    shown = [picture(48, 64, seed) for seed in range(3)]
    images = batch([encode(pixels) for pixels in shown], [(48, 64)] * 3, (48, 64))
    decoder = encoding(backend, encode_format=kind, jpeg_quality=95)
    decoded = decode(decoder, images)
    decoder.close()
    assert decoded.failures == {}
    for data, pixels in zip(decoded.image, shown, strict=True):
        assert isinstance(data, bytes)
        assert opened(data).format == kind.upper()
        assert difference(np.asarray(opened(data)), pixels).mean() <= (0 if kind == "png" else 2)


def test_jpeg_quality_and_chroma_are_those_asked_for(backend: Backend) -> None:
    images = batch([encode(picture(64, 64))], [(64, 64)], (64, 64))
    tables = {}
    for quality in (30, 92):
        decoder = encoding(backend, encode_format="jpeg", jpeg_quality=quality)
        shown = opened(decode(decoder, images).image[0])
        decoder.close()
        assert JpegImagePlugin.get_sampling(shown) == 0  # 4:4:4
        tables[quality] = sum(shown.quantization[0])
    assert tables[30] > 3 * tables[92]


def test_masks_are_png_whatever_the_format(backend: Backend) -> None:
    levels = picture(40, 40)[:, :, 0]
    decoder = encoding(backend, mask=True, encode_format="jpeg")
    decoded = decode(decoder, batch([encode(Image.fromarray(levels))], [(40, 40)], (40, 40)))
    decoder.close()
    shown = opened(decoded.image[0])
    assert (shown.format, shown.mode) == ("PNG", "L")
    assert np.array_equal(np.asarray(shown), levels)


def test_an_image_that_cannot_be_decoded_costs_itself(backend: Backend) -> None:
    good = encode(picture(48, 48), "JPEG")
    images = batch([good, good[:200] + b"\xff\xd9", good], [(48, 48)] * 3, (48, 48))
    decoder = encoding(backend)
    decoded = decode(decoder, images)
    decoder.close()
    assert list(decoded.failures) == [1]
    assert [opened(data).size for data in decoded.image] == [(48, 48)] * 2


@pytest.mark.parametrize(
    ("channels", "dtype", "png", "jpeg"),
    [(1, "u1", "L", "L"), (2, "u1", "LA", "L"), (3, "u1", "RGB", "RGB"), (4, "u1", "RGBA", "RGB"),
     (1, "u2", "I;16", "L"), (2, "u2", "LA", "L"), (3, "u2", "RGB", "RGB"), (4, "u2", "RGBA", "RGB")],
)  # fmt: skip
def test_every_kind_of_pixels_has_a_mode_in_either_format(channels: int, dtype: str, png: str, jpeg: str) -> None:
    pixels = np.full((8, 9, channels), 200 if dtype == "u1" else 200 * 257, dtype)
    for kind, mode in (("png", png), ("jpeg", jpeg)):
        shown = opened(Encoder(ImageConfig(encode_format=kind))(pixels))  # type: ignore[arg-type]
        assert (shown.mode, shown.size) == (mode, (9, 8))
        assert np.asarray(shown).ravel()[0] == pytest.approx(184 if channels in (2, 4) and kind == "jpeg" else
                                                             51400 if mode == "I;16" else 200, abs=2)  # fmt: skip


@pytest.mark.parametrize("settings", [{"layout": "CHW"}, {"dtype": "float32"}])
@pytest.mark.parametrize("form", [{"pre_encode_images": True}, {"image_to_rgb8": False}])
def test_a_form_that_only_arrays_have_is_refused(settings: dict[str, Any], form: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"image_config.{next(iter(form))} .*{next(iter(settings.values()))}"):
        ImageConfig(**settings, **form)


def test_a_loader_hands_out_encoded_images(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(picture(40, 40, number)).save(tmp_path / f"{number}.png")
    source = {"source_type": "file", "source_config": {"root_path": str(tmp_path)}}
    image = {"pre_encode_images": True, "encode_format": "jpeg"}
    with Loader(LoaderConfig.load({**source, "image_config": image, "batch_size": 3}), device="cpu") as loader:
        (only,) = loader
    assert [opened(data).format for data in only.image] == ["JPEG"] * 3
    assert "bytes" in repr(only[0])
