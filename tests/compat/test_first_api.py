"""datago's first API, as its README shows it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datago_gpu.compat import datago
from datago_gpu.server import DataroomServer
from tests.support.pictures import difference, picture


@pytest.fixture
def client(server: DataroomServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    monkeypatch.setenv("DATAROOM_API_URL", server.url)
    monkeypatch.setenv("DATAROOM_API_KEY", server.key)
    return lambda **settings: datago.GetClient(device="cpu", **settings)


def test_the_example_of_the_readme(client: Any) -> None:
    running = client(
        source="even",
        require_images=True,
        has_attributes="",
        lacks_attributes="",
        has_masks="fg",
        lacks_masks="",
        has_latents="vae,masked_image",
        lacks_latents="",
        crop_and_resize=True,
        prefetch_buffer_size=64,
        samples_buffer_size=64,
        downloads_concurrency=64,
        default_image_size=64,
        require_embeddings=True,
    )
    running.Start()
    samples = [running.GetSample() for _ in range(6)]
    assert running.GetSample().ID == running.GetSample().ID == ""
    running.Stop()
    assert [sample.ID for sample in samples] == ["00", "02", "04", "06", "08", "10"]
    for sample in samples:
        number = int(sample.ID)
        assert (sample.Source, sample.Attributes["number"]) == ("even", number)
        assert sample.CocaEmbedding == pytest.approx([0.1 * number, 0.8])
        assert sample.Image.Height * sample.Image.Width == pytest.approx(64 * 64, rel=0.2)
        assert (sample.Image.OriginalHeight, sample.Image.OriginalWidth) == (60 + number, 80)
        shown = datago.go_array_to_pil_image(sample.Image)
        mask = datago.go_array_to_pil_image(sample.Masks["fg"])
        assert (shown.mode, mask.mode) == ("RGB", "L")
        assert shown.size == mask.size == (sample.Image.Width, sample.Image.Height)
        assert difference(np.asarray(shown)[:, :, 0], np.asarray(mask)).mean() <= 2  # cut from the same region
        assert sample.AdditionalImages["masked_image"].Channels == 3
        assert np.array_equal(datago.go_array_to_numpy(sample.Latents["vae"]), np.full((4, 3), number, np.float16))


def test_pointers_lead_to_the_data(client: Any) -> None:
    running = client()
    running.Start()
    image = running.GetSample().Image
    assert ctypes.string_at(image.DataPtr, len(image.Data)) == image.Data
    assert np.array_equal(datago.uint8_array_to_numpy(image), picture(60, 80, 0))
    running.Stop()


def test_encoded_images_are_jpegs_and_masks_pngs(client: Any) -> None:
    running = client(pre_encode_images=True, has_masks="fg", tags="first", page_size=3)
    running.Start()
    sample = running.GetSample()
    running.Stop()
    assert (sample.Image.Channels, sample.Masks["fg"].Channels) == (-1, -1)
    assert sample.Image.Data.startswith(b"\xff\xd8")
    assert sample.Masks["fg"].Data.startswith(b"\x89PNG")
    assert datago.uint8_array_to_numpy(sample.Image).tobytes() == sample.Image.Data
    assert sample.Tags == ["first"]


def test_a_client_that_was_not_started_warns_and_gives_an_empty_sample(client: Any) -> None:
    waiting = client()
    with pytest.warns(RuntimeWarning, match="Start"):
        sample = waiting.GetSample()
    assert (sample.ID, sample.Source, sample.Attributes, sample.Masks) == ("", "", {}, {})
    assert (sample.Image.Data, sample.Image.Channels, sample.Image.DataPtr) == (b"", 0, 0)
    assert datago.go_array_to_pil_image(sample.Image) is None


def test_ranks_share_the_images(client: Any) -> None:
    found = []
    for rank in range(2):
        running = client(rank=rank, world_size=2, require_images=False)
        running.Start()
        while (sample := running.GetSample()).ID:
            found.append(sample.ID)
        running.Stop()
    assert sorted(found) == [f"{number:02}" for number in range(12)]


def test_latents_that_are_no_arrays_are_told_apart(client: Any) -> None:
    running = client(has_latents="raw", require_images=False)
    running.Start()
    latent = running.GetSample().Latents["raw"]
    running.Stop()
    assert (latent.Data, latent.Len) == (b"latent 0", 8)
    assert datago.go_array_to_numpy(latent) is None


def test_gray_payloads_become_gray_pictures() -> None:
    from datago_gpu.compat.payload import RawImage

    gray = datago.ImagePayload(RawImage(picture(8, 9)[:, :, :1].copy(), (8, 9)))
    assert isinstance(datago.go_array_to_pil_image(gray), Image.Image)
    assert datago.uint8_array_to_numpy(gray).shape == (8, 9, 1)
