"""Settings of source_type "db": which images of a Dataroom server are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import Meta

from datago_gpu.config.settings import Count, Kind, Names, Natural, names_in
from datago_gpu.config.source_settings import SourceSettings
from datago_gpu.redact import redacted, shown_address

__all__ = ["DataroomSource", "kind_of"]


def kind_of(name: str, *, is_mask: bool) -> Kind:
    """What the server calls a latent is one of three things. As datago tells them apart: by the name first."""
    if "image" in name and "latent_" not in name:
        return "image"
    return "mask" if is_mask else "latent"


_FILTERS: dict[str, str] = {
    "sources": "sources",
    "sources_ne": "sources__ne",
    "tags": "tags",
    "tags_all": "tags__all",
    "tags_ne": "tags__ne",
    "tags_ne_all": "tags__ne_all",
    "tags_empty": "tags__empty",
    "has_attributes": "has_attributes",
    "lacks_attributes": "lacks_attributes",
    "has_masks": "has_masks",
    "lacks_masks": "lacks_masks",
    "has_latents": "has_latents",
    "lacks_latents": "lacks_latents",
    "attributes": "attributes",
    "datasets": "datasets",
    "datasets_all": "datasets__all",
    "datasets_ne": "datasets__ne",
    "datasets_ne_all": "datasets__ne_all",
    "datasets_empty": "datasets__empty",
    "min_short_edge": "short_edge__gte",
    "max_short_edge": "short_edge__lte",
    "min_pixel_count": "pixel_count__gte",
    "max_pixel_count": "pixel_count__lte",
    "min_aspect_ratio": "aspect_ratio__gte",
    "max_aspect_ratio": "aspect_ratio__lte",
    "aspect_ratio_fraction": "aspect_ratio_fraction",
    "embedding_empty": "coca_embedding__empty",
    "created_after": "date_created__gt",
    "created_before": "date_created__lt",
    "updated_after": "date_updated__gt",
    "updated_before": "date_updated__lt",
}
"""Setting -> parameter of the Dataroom API."""


class DataroomSource(SourceSettings, frozen=True, kw_only=True):
    """Images of a Dataroom server that pass all the filters given, in the server's order (by id).

    A filter left empty is not sent. Several names are comma-separated text, as on the server, or a list.

    Attributes:
        sources: only images from any of these sources. "": all.
        sources_ne: no images from these sources.
        tags: only images with at least one of these tags.
        tags_all: only images with all of these tags.
        tags_ne: no images with any of these tags.
        tags_ne_all: no images with all of these tags together.
        tags_empty: "true": only images without tags. "false": only images with tags.
        datasets: only images in at least one of these datasets, each named `slug/version`.
        datasets_all: only images in all of these datasets.
        datasets_ne: no images in any of these datasets.
        datasets_ne_all: no images in all of these datasets together.
        datasets_empty: "true": only images in no dataset. "false": only images in a dataset.
        has_attributes: only images with all of these attributes.
        lacks_attributes: only images with none of these attributes.
        has_masks: only images with all of these masks. The masks are loaded: `Batch.masks`.
        lacks_masks: only images with none of these masks.
        has_latents: only images with all of these latents. The latents are loaded: `Batch.latents`; as in datago, those
            with "image" and without "latent_" in their names: `Batch.additional_images`.
        lacks_latents: only images with none of these latents.
        optional_masks: masks that are loaded if an image has them. Not a filter.
        optional_latents: latents that are loaded if an image has them. Not a filter.
        attributes: `name:value` or `name__comparator:value` conditions, comma-separated. All of them must hold.
        min_short_edge: minimum length of the shorter side, in pixels: the server leaves out smaller images. Images that
            turn out smaller than the server says are skipped (`too-small`). 0: no minimum.
        max_short_edge: maximum length of the shorter side, in pixels. 0: no maximum.
        min_pixel_count: minimum number of pixels, width times height. 0: no minimum.
        max_pixel_count: maximum number of pixels, width times height. 0: no maximum.
        min_aspect_ratio: minimum of width / height. 0: no minimum.
        max_aspect_ratio: maximum of width / height. 0: no maximum.
        aspect_ratio_fraction: aspect ratio as a fraction, such as "4:3".
        duplicate_state: 1: only originals. 2: only duplicates. "unprocessed": only images that were not checked for
            duplicates. 0 or -1: all images, as in datago.
        embedding_empty: "true": only images without an embedding. "false": only images with one.
        created_after: only images created after this time, in ISO 8601: "2024-05-01".
        created_before: only images created before this time.
        updated_after: only images changed after this time.
        updated_before: only images changed before this time.
        require_images: false loads everything else, but no images: `Batch.image` is None.
        require_embeddings: true loads `coca_embedding`: `Batch.embeddings`. A sample without an embedding is skipped
            (`bad-entry`). So is a sample whose embedding has another length than most of the first hundred samples.
        where: which samples are loaded, as an expression over what the listing says of a sample, before its image is
            downloaded: `id`, `width`, `height` (as stored), `source`, `tags`, `duplicate_state` and the attributes:
            `aesthetic > 5 and not "text" in tags`. `stats().filtered` counts the samples left out. The server's own
            filters above do not list such images at all. "": all samples.
        label: attribute that is the class of an image: a whole number, or one of `classes`. `Batch.labels` has its
            number. "": no labels.
        classes: names of the classes in the order of their labels, as a list, or as text with one name on each line.
        page_size: number of samples in one request, 1 to 2000.
        random_sampling: true shuffles, as `random_method` says.
        random_method: "shuffle": reads the listing in the server's order through a buffer of `shuffle_buffer` samples
            and draws from the buffer with `seed`; each epoch contains every sample once and is reproducible. "server":
            requests random pages and leaves out repeated samples, until `limit` (required) or until no new samples
            arrive.
        shuffle_buffer: number of samples in the shuffle buffer: names, addresses and attributes, without payloads.
            Fewer if they take more than 256 MiB.
        check_count: true compares the length of the listing with the server's own count, because a timeout in the
            server can end the listing early.
        api_url: address of the server, up to and including `/api/`. Default: the environment variable DATAROOM_API_URL.
        api_key: API key: 40 hexadecimal digits. Default: the environment variable DATAROOM_API_KEY. Sent only to the
            origin of `api_url`.
        rank: the share of the images that this process loads, as for files.
        world_size: number of processes that share the images, as for files.
    """

    sources: Names = ""
    sources_ne: Names = ""
    tags: Names = ""
    tags_all: Names = ""
    tags_ne: Names = ""
    tags_ne_all: Names = ""
    tags_empty: str = ""
    datasets: Names = ""
    datasets_all: Names = ""
    datasets_ne: Names = ""
    datasets_ne_all: Names = ""
    datasets_empty: str = ""
    has_attributes: Names = ""
    lacks_attributes: Names = ""
    has_masks: Names = ""
    lacks_masks: Names = ""
    has_latents: Names = ""
    lacks_latents: Names = ""
    optional_masks: Names = ""
    optional_latents: Names = ""
    attributes: Names = ""
    min_short_edge: int = 0
    max_short_edge: int = 0
    min_pixel_count: int = 0
    max_pixel_count: int = 0
    min_aspect_ratio: float = 0.0
    max_aspect_ratio: float = 0.0
    aspect_ratio_fraction: str = ""
    duplicate_state: int | Literal["unprocessed"] = 0
    embedding_empty: Literal["", "true", "false"] = ""
    created_after: str = ""
    created_before: str = ""
    updated_after: str = ""
    updated_before: str = ""
    require_images: bool = True
    require_embeddings: bool = False
    label: str = ""
    page_size: Annotated[int, Meta(ge=1, le=2000)] = 500
    random_sampling: bool = False
    random_method: Literal["shuffle", "server"] = "shuffle"
    shuffle_buffer: Count = 10_000
    check_count: bool = True
    api_url: str = ""
    api_key: str = ""
    rank: Natural | None = None
    world_size: Count | None = None

    def _problem(self) -> str | None:
        if isinstance(self.duplicate_state, int) and not -1 <= self.duplicate_state <= 2:
            return f"source_config.duplicate_state must be -1 to 2 or 'unprocessed', got {self.duplicate_state}"
        if self.api_url and not self.api_url.startswith(("http://", "https://")):
            return f"source_config.api_url must begin with http:// or https://, got {self.shown_address!r}"
        if self.classes and not self.label:
            return "source_config.classes is set, but label is not: set label to an attribute of the images"
        for name in ("tags_empty", "datasets_empty"):
            if getattr(self, name).lower() not in ("", "true", "false", "1", "0"):
                return f"source_config.{name} must be 'true' or 'false', got {getattr(self, name)!r}"
        return None

    @property
    def has_labels(self) -> bool:
        """Whether the settings ask for labels."""
        return bool(self.label)

    @property
    def parts(self) -> dict[str, Kind]:
        """What is to be loaded beside the image: name -> kind."""
        masks = names_in(self.has_masks, self.optional_masks)
        latents = names_in(self.has_latents, self.optional_latents)
        kinds = {name: kind_of(name, is_mask=False) for name in latents}
        kinds |= {name: kind_of(name, is_mask=True) for name in masks}
        return {name: kind for name, kind in kinds.items() if self._is_loaded(kind)}

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """Those of `parts` that a sample may lack."""
        wanted = names_in(self.has_masks, self.has_latents)
        return {name: kind for name, kind in self.parts.items() if name not in wanted}

    def _is_loaded(self, kind: Kind) -> bool:
        return self.require_images or kind == "latent"

    @property
    def key(self) -> str:
        """The API key, from the settings or the environment; "" for none."""
        return (self.api_key or os.environ.get("DATAROOM_API_KEY", "")).strip()

    @property
    def shown_address(self) -> str:
        """`api_url` as it may be shown."""
        return redacted(shown_address(self.api_url), self.key)

    def filters(self) -> dict[str, str]:
        """The API parameters of the filters that are set."""
        given = {parameter: getattr(self, name) for name, parameter in _FILTERS.items()}
        sent = {name: str(value) for name, value in given.items() if value and (isinstance(value, str) or value > 0)}
        if self.duplicate_state == "unprocessed":
            sent["duplicate_state"] = "None"
        elif self.duplicate_state > 0:
            sent["duplicate_state"] = str(self.duplicate_state)
        return sent

    def _secrets(self) -> Iterable[str]:
        return [self.key]

    def _shown(self) -> dict[str, Any]:
        return {"api_key": "***", "api_url": self.shown_address}
