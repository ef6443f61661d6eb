"""`Sample`, a sample as datago returns it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import msgspec
from PIL import Image

from datago_gpu import batch
from datago_gpu.compat.payload import ImagePayload, LatentPayload, RawImage
from datago_gpu.config import DataroomSource, FileSource, LoaderConfig, WebDatasetSource
from datago_gpu.decoders.device import on_host

__all__ = ["Sample", "as_dict", "to_datago"]


@dataclass(slots=True, eq=False)
class Sample:
    """One sample. `attributes` is JSON text."""

    id: str
    source: str
    attributes: str
    duplicate_state: int
    image: ImagePayload
    masks: dict[str, ImagePayload] = field(default_factory=dict)
    additional_images: dict[str, ImagePayload] = field(default_factory=dict)
    latents: dict[str, LatentPayload] = field(default_factory=dict)
    coca_embedding: list[float] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Sample(id={self.id!r}, source={self.source!r}, image={self.image!r})"


def to_datago(given: batch.Sample, config: LoaderConfig) -> Sample:
    """Converts a sample of a loader to the form that datago's clients expect."""
    source, name = config.source_config, given.id
    origin, state, further = given.source, given.duplicate_state or 0, given.additional_images
    if isinstance(source, FileSource):
        # datago's id of a file is its path, in quotes: the JSON of it.
        name = msgspec.json.encode(os.path.join(source.root_path, given.id)).decode()
        origin = "filesystem"
    elif isinstance(source, DataroomSource):
        asked_for = source.duplicate_state == "unprocessed" or source.duplicate_state >= 0
        state = given.duplicate_state if asked_for and given.duplicate_state is not None else -1
    elif isinstance(source, WebDatasetSource) and source.datago_form:
        name = os.path.basename(given.id)
        if source.key_dots == "last":  # datago names an additional image by its file in the shard
            further = {f"{given.id}.{ending}": pixels for ending, pixels in further.items()}
    # The original size of a cropped part is unknown. It shows the same region as the image, so use the image's size.
    cropped = given.original_size if config.image_config.crop_and_resize else None
    return Sample(
        id=name,
        source=origin,
        attributes=msgspec.json.encode(given.attributes).decode(),
        duplicate_state=state,
        image=ImagePayload(RawImage(given.image, given.original_size if given.image is not None else (0, 0))),
        masks=_pictures(given.masks, cropped),
        additional_images=_pictures(further, cropped),
        latents={name: LatentPayload(value) for name, value in given.latents.items() if value is not None},
        coca_embedding=[] if given.embedding is None else on_host(given.embedding).tolist(),
        tags=given.tags,
    )


def as_dict(sample: Sample) -> dict[str, Any]:
    """Converts a sample to Python types: PIL images (None for no image), and each attribute as JSON text."""
    return {
        "id": sample.id,
        "source": sample.source,
        "duplicate_state": sample.duplicate_state,
        "attributes": {
            name: msgspec.json.encode(value).decode() for name, value in msgspec.json.decode(sample.attributes).items()
        },
        "tags": sample.tags,
        "coca_embedding": sample.coca_embedding,
        "latents": {name: {"data": latent.data, "len": latent.len} for name, latent in sample.latents.items()},
        "image": _picture(sample.image),
        "masks": {name: _picture(image) for name, image in sample.masks.items()},
        "additional_images": {name: _picture(image) for name, image in sample.additional_images.items()},
    }


def _pictures(given: dict[str, Any], original_size: tuple[int, int] | None) -> dict[str, ImagePayload]:
    return {name: ImagePayload(RawImage(pixels, original_size)) for name, pixels in given.items() if pixels is not None}


def _picture(image: ImagePayload) -> Image.Image | None:
    return image.to_pil_image() if image.get_payload().channels else None
