"""Settings of the sources: which samples there are to load, and where."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from datago_gpu.config.base import Count, Names, Natural, Settings, told, without_secrets
from datago_gpu.config.file_names import EXTENSIONS, Selection
from datago_gpu.config.local_paths import FILE_SCHEME
from datago_gpu.redact import redacted, shown_address

__all__ = [
    "ENDPOINT_HINT",
    "STORE_SCHEMES",
    "DataroomSource",
    "FileSource",
    "Kind",
    "RankSplit",
    "endpoint_problem",
    "is_endpoint",
    "kind_of",
    "names_in",
]


STORE_SCHEMES = ("s3://", "gs://", "az://", "abfs://", "abfss://")
"""What addresses in object storage begin with."""

ENDPOINT_HINT = "http:// or https://, such as http://HOST:PORT"

Kind = Literal["mask", "image", "latent"]
RankSplit = Literal["shuffled", "listed"]
_EXTENSION = re.compile(r"\.?[^./\s*?][^/\s*?]*")


def kind_of(name: str, *, is_mask: bool) -> Kind:
    """What the server calls a latent is one of three things. As datago tells them apart: by the name first."""
    if "image" in name and "latent_" not in name:
        return "image"
    return "mask" if is_mask else "latent"


def names_in(*lists: str) -> list[str]:
    """The names of comma-separated lists, each once."""
    return list(dict.fromkeys(name.strip() for text in lists for name in text.split(",") if name.strip()))


def is_endpoint(name: str) -> bool:
    """Whether an option of object storage names the server to ask."""
    plain = name.lower().removeprefix("aws_").removeprefix("azure_").removeprefix("google_")
    return plain in ("endpoint", "endpoint_url", "storage_endpoint", "base_url")


def endpoint_problem(options: Mapping[str, str]) -> str | None:
    """What is wrong with the endpoint among the options of object storage, in words. Its value is not told."""
    for name, value in options.items():
        if is_endpoint(name) and not value.strip().lower().startswith(("http://", "https://")):
            return (f"source_config.storage_options: {name} must begin with {ENDPOINT_HINT}")  # fmt: skip
    return None


class FileSource(Settings, frozen=True, kw_only=True):
    """A folder of images, walked with its subfolders in the order of their names.

    Attributes:
        root_path: the folder, in which `~`, `$NAME` and `${NAME}` mean what they mean in a shell, also as a file://
            address; or a prefix in object storage, such as `s3://bucket/photos`, in the store's own order.
        random_sampling: true shuffles: each epoch is a full permutation that depends on `seed` and the epoch alone.
            The whole listing is read first (seconds for a million files).
        storage_options: for s3, gs and az: options of obstore such as {"endpoint": "http://localhost:9000"}; others
            come from the environment.
        extensions: what the names of images end in, comma-separated or a list, such as "jpg,png"; in any case. "" means
            the endings of all formats that are decoded. Files of other endings, or of none, are passed over.
        hidden: true takes hidden files and folders as well: those whose name begins with a dot (`.ipynb_checkpoints`,
            `.Trash`, `._x.jpg`), and `__MACOSX`, `@eaDir`, `#recycle`, `$RECYCLE.BIN`. The root itself may be hidden.
        follow_links: true follows symbolic links to images and to folders; each real folder is listed once, so that
            circles of links end. False passes links over. The root may be a link in any case.
        rank: which share of the samples this process takes: those numbered rank, rank + world_size, ... in the order
            that all ranks have in common. Default: the environment's RANK, else 0.
        world_size: how many processes share the samples. Default: the environment's WORLD_SIZE, else 1.
        rank_split: what the ranks share in a shuffle. "shuffled": the order of the epoch, so that a rank gets other
            samples in each epoch; all ranks need the same `seed`. "listed": the listing; a rank shuffles the same
            samples in every epoch, and may have a `seed` of its own.
    """

    place: ClassVar[str] = "source_config."
    root_path: str
    random_sampling: bool = False
    storage_options: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    rank: Natural | None = None
    world_size: Count | None = None
    rank_split: RankSplit = "shuffled"
    follow_links: bool = True
    extensions: Names = ""
    hidden: bool = False

    def _problem(self) -> str | None:
        odd = [name for name in names_in(self.extensions) if not _EXTENSION.fullmatch(name)]
        if odd:
            return f"source_config.extensions: {odd[0]!r} is no ending of a file's name, as 'jpg' and '.png' are"
        if not self.root_path:
            return "source_config.root_path is empty: name a folder of images"
        scheme, slashes, _ = self.root_path.partition("://")
        if slashes and f"{scheme.lower()}://" not in (FILE_SCHEME, *STORE_SCHEMES):
            return (f"source_config.root_path begins with {scheme}://, which holds no folder: "
                    f"a local folder or {', '.join(STORE_SCHEMES)} do")  # fmt: skip
        return endpoint_problem(self.storage_options)

    @property
    def is_stored(self) -> bool:
        """Whether the root is in object storage."""
        return self.root_path.startswith(STORE_SCHEMES)

    @property
    def selection(self) -> Selection:
        """Which files below the root are its images."""
        given = tuple(f".{name.lower().removeprefix('.')}" for name in names_in(self.extensions))
        return Selection(given or EXTENSIONS, self.hidden, self.follow_links)

    def redacted(self, text: str) -> str:
        """`text` with *** for the values of storage_options, should they be there."""
        return without_secrets(text, self.storage_options.values())

    def __repr__(self) -> str:
        return f"FileSource({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too: what was set, less what is secret."""
        return told(self, storage_options=dict.fromkeys(self.storage_options, "***"))

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """What a sample may have beside its image, and may lack: name -> kind."""
        return {}


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


class DataroomSource(Settings, frozen=True, kw_only=True):
    """Images of a Dataroom server that pass all the filters given, in the server's order (by id).

    A filter left empty is not sent. Several names are comma-separated text, as on the server, or a list.

    Attributes:
        sources: images of these origins only. "" means all.
        sources_ne: no images of these origins.
        tags: images that have any of these tags.
        tags_all: images that have all of these tags.
        tags_ne: images that have none of these tags.
        tags_ne_all: no images that have all of these tags together.
        tags_empty: "true" for images without a tag, "false" for those with one.
        datasets: images that are in any of these datasets, each named `slug/version`.
        datasets_all: images that are in all of these datasets.
        datasets_ne: images that are in none of these datasets.
        datasets_ne_all: no images that are in all of these datasets together.
        datasets_empty: "true" for images that are in no dataset, "false" for those that are in one.
        has_attributes: images that have all of these attributes.
        lacks_attributes: images that have none of these attributes.
        has_masks: images that have all of these masks. They are loaded: `Batch.masks`.
        lacks_masks: images that have none of these masks.
        has_latents: images that have all of these latents. They are loaded: `Batch.latents`, and those whose name holds
            "image" and not "latent_", as in datago, `Batch.additional_images`.
        lacks_latents: images that have none of these latents.
        optional_masks: masks that are loaded where an image has them. They filter nothing.
        optional_latents: latents that are loaded where an image has them. They filter nothing.
        attributes: `name:value` or `name__comparator:value` pairs, comma-separated, all of which must hold.
        min_short_edge: images whose shorter side has at least so many pixels; 0 for any.
        max_short_edge: images whose shorter side has at most so many pixels; 0 for any.
        min_pixel_count: images of at least so many pixels, width times height; 0 for any.
        max_pixel_count: images of at most so many pixels; 0 for any.
        min_aspect_ratio: images of at least this width / height; 0 for any.
        max_aspect_ratio: images of at most this width / height; 0 for any.
        aspect_ratio_fraction: images of this shape, such as "4:3".
        duplicate_state: as in datago, 0 or less filters nothing; 1 originals, 2 duplicates; also "unprocessed".
        embedding_empty: "true" for images without an embedding, "false" for those with one.
        created_after: images that were created after this time, as ISO 8601 writes it: "2024-05-01".
        created_before: images that were created before this time.
        updated_after: images that were changed after this time.
        updated_before: images that were changed before this time.
        require_images: false loads no images, only what else is asked for; `Batch.image` is then None.
        require_embeddings: ask for `coca_embedding` as well; a sample without one is skipped, as is one
            whose embedding has another length than most of the first hundred that pass the filters.
        page_size: samples a request, 1 to 2000.
        random_sampling: true shuffles. See `random_method`.
        random_method: "shuffle": a walk in the server's order through a buffer of `shuffle_buffer` samples that are
            drawn from with `seed`; every sample once an epoch, reproducible. "server": the server's own random pages,
            drawn again and again without repeats until `limit` (which it needs) or until draws bring nothing new.
        shuffle_buffer: samples (names, addresses and attributes, not payloads) held to draw from; fewer where they
            take more than 256 MiB.
        check_count: compare the walk with the server's own count, since a short page can be a time-out of the server.
        api_url: the server, up to and with `/api/`. Default: the environment's DATAROOM_API_URL.
        api_key: 40 hex digits. Default: the environment's DATAROOM_API_KEY. Sent to the origin of `api_url` only.
        rank: which share of the images this process takes, as for files.
        world_size: how many processes share the images, as for files.
    """

    place: ClassVar[str] = "source_config."
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
        for name in ("tags_empty", "datasets_empty"):
            if getattr(self, name).lower() not in ("", "true", "false", "1", "0"):
                return f"source_config.{name} must be 'true' or 'false', got {getattr(self, name)!r}"
        return None

    @property
    def optional_parts(self) -> dict[str, Kind]:
        """What a sample may have beside its image, and may lack: name -> kind."""
        masks, latents = names_in(self.optional_masks), names_in(self.optional_latents)
        kinds = {name: kind_of(name, is_mask=False) for name in latents}
        kinds |= {name: kind_of(name, is_mask=True) for name in masks}
        wanted = names_in(self.has_masks, self.has_latents)
        return {name: kind for name, kind in kinds.items() if name not in wanted and self._is_loaded(kind)}

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

    def __repr__(self) -> str:
        return f"DataroomSource({', '.join(f'{name}={value!r}' for name, value in self._told().items())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too: msgspec's own would show the key."""
        return list(self._told().items())

    def _told(self) -> dict[str, Any]:
        """What was set, less the key."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["api_key"] = "***" if self.api_key else ""
        shown["api_url"] = self.shown_address
        defaults = dict(zip(self.__struct_fields__, self.__struct_defaults__, strict=True))
        return {name: value for name, value in shown.items() if value != defaults[name]}
