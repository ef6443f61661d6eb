"""datago's first, Go-backed API: `GetClient(...)`, `Start`, `GetSample`, `Stop`, with capitalised names.

Images are 8-bit RGB. If encoded, images are JPEGs of quality 95 and masks are PNGs.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import msgspec
import numpy as np

from datago_gpu.compat import payload, sample
from datago_gpu.compat.datago_client import DatagoClient
from datago_gpu.compat.polyglot import go_array_to_numpy, go_array_to_pil_image, uint8_array_to_numpy

__all__ = [
    "GetClient",
    "ImagePayload",
    "LatentPayload",
    "Sample",
    "go_array_to_numpy",
    "go_array_to_pil_image",
    "uint8_array_to_numpy",
]

_ALL = 2**62
"""Number of samples that stands for "no limit", because the first API had none."""


class ImagePayload:
    """An image. Data: its bytes. Channels: -1 if Data is a JPEG or PNG, 0 if there is no image."""

    def __init__(self, raw: payload.RawImage) -> None:
        self._raw = raw
        self.Width, self.Height, self.Channels = raw.width, raw.height, raw.channels
        self.OriginalWidth, self.OriginalHeight = raw.original_width, raw.original_height

    @property
    def Data(self) -> bytes:  # noqa: N802 - datago's name
        """On a GPU, the first use copies them."""
        return self._raw.data

    @property
    def DataPtr(self) -> int:  # noqa: N802 - datago's name
        """The address of `Data` in memory, valid while the payload lives; 0 for no image."""
        return _address(self.Data)

    def cuda(self) -> Any:
        """Returns the pixels on the GPU, without a copy. Raises DatagoError if they are not on a GPU."""
        return self._raw.cuda()


class LatentPayload:
    """A latent. Data: the bytes of its file."""

    def __init__(self, raw: payload.LatentPayload) -> None:
        self._raw = raw

    @property
    def Data(self) -> bytes:  # noqa: N802 - datago's name
        """On a GPU, the first use copies them."""
        return self._raw.data

    @property
    def Len(self) -> int:  # noqa: N802 - datago's name
        """The number of bytes of `Data`."""
        return self._raw.len

    @property
    def DataPtr(self) -> int:  # noqa: N802 - datago's name
        """The address of `Data` in memory, valid while the payload lives."""
        return _address(self.Data)


class Sample:
    """One sample. An empty sample, with the ID "", marks the end."""

    def __init__(self, given: sample.Sample | None = None) -> None:
        given = given or sample.Sample("", "", "{}", 0, payload.ImagePayload(payload.RawImage()))
        self.ID, self.Source, self.Tags = given.id, given.source, given.tags
        self.Attributes: dict[str, Any] = msgspec.json.decode(given.attributes)
        self.Image = ImagePayload(given.image.get_payload())
        self.Masks = {name: ImagePayload(each.get_payload()) for name, each in given.masks.items()}
        self.AdditionalImages = {
            name: ImagePayload(each.get_payload()) for name, each in given.additional_images.items()
        }
        self.Latents = {name: LatentPayload(each) for name, each in given.latents.items()}
        self.CocaEmbedding = given.coca_embedding

    def __repr__(self) -> str:
        return f"Sample(ID={self.ID!r}, Source={self.Source!r})"


class _Client:
    """The client that `GetClient` returns."""

    def __init__(self, config: dict[str, Any], device: str, backend: str) -> None:
        self._client = DatagoClient(json.dumps(config), device=device, backend=backend)
        self._started = False

    def Start(self) -> None:  # noqa: N802 - datago's name
        """Starts to load."""
        self._started = True
        self._client.start()

    def GetSample(self) -> Sample:  # noqa: N802 - datago's name
        """Returns the next sample; an empty one at the end, or (with a warning) if the client was not started."""
        if not self._started:
            warnings.warn("the client is not started: call Start() before GetSample()", RuntimeWarning, stacklevel=2)
            return Sample()
        return Sample(self._client.get_sample())

    def Stop(self) -> None:  # noqa: N802 - datago's name
        """Stops loading. `Start` begins again."""
        self._started = False
        self._client.stop()


def GetClient(  # noqa: N802 - datago's name
    source: str = "",
    require_images: bool = True,
    has_attributes: str = "",
    lacks_attributes: str = "",
    has_masks: str = "",
    lacks_masks: str = "",
    has_latents: str = "",
    lacks_latents: str = "",
    crop_and_resize: bool = False,
    prefetch_buffer_size: int = 8,
    samples_buffer_size: int = 8,
    downloads_concurrency: int = 2,
    *,
    tags: str = "",
    tags_ne: str = "",
    rank: int = 0,
    world_size: int = 1,
    default_image_size: int = 512,
    downsampling_ratio: int = 16,
    min_aspect_ratio: float = 0.5,
    max_aspect_ratio: float = 2.0,
    pre_encode_images: bool = False,
    page_size: int = 500,
    require_embeddings: bool = False,
    device: str = "auto",
    backend: str = "auto",
) -> _Client:
    """Makes a client for the Dataroom that DATAROOM_API_URL and DATAROOM_API_KEY name. `Start` begins to load.

    The settings are those of `source_config` and `image_config`. `source` is the setting `sources`, and
    `downloads_concurrency` is the number of concurrent downloads. device, backend: as for Loader.
    """
    filters = {
        "sources": source, "has_attributes": has_attributes, "lacks_attributes": lacks_attributes,
        "has_masks": has_masks, "lacks_masks": lacks_masks, "has_latents": has_latents, "lacks_latents": lacks_latents,
        "tags": tags, "tags_ne": tags_ne,
    }  # fmt: skip
    amounts = {"require_images": require_images, "require_embeddings": require_embeddings, "page_size": page_size,
               "rank": rank, "world_size": world_size}  # fmt: skip
    image = {
        "crop_and_resize": crop_and_resize, "default_image_size": default_image_size,
        "downsampling_ratio": downsampling_ratio, "min_aspect_ratio": min_aspect_ratio,
        "max_aspect_ratio": max_aspect_ratio, "pre_encode_images": pre_encode_images, "encode_format": "jpeg",
        "jpeg_quality": 95, "image_to_rgb8": True,
    }  # fmt: skip
    config = {
        "source_type": "db", "source_config": filters | amounts, "image_config": image,
        "http_config": {"concurrent_downloads": downloads_concurrency}, "limit": _ALL,
        "prefetch_buffer_size": prefetch_buffer_size, "samples_buffer_size": samples_buffer_size,
    }  # fmt: skip
    return _Client(config, device, backend)


def _address(data: bytes) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data) if data else 0
