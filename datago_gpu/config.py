"""Settings: small frozen records, checked when they are made. Nothing starts with settings that cannot work.

The keys are datago's own schema (`source_type`, `source_config`, `image_config`, `limit`, `samples_buffer_size`,
`prefetch_buffer_size`) and ours. Every problem is a ConfigError that names the key, the value and a way out.
"""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from datago_gpu.errors import ConfigError
from datago_gpu.geometry import BucketTable
from datago_gpu.redact import redacted, shown_address

__all__ = ["DataroomSource", "DecodeConfig", "FileSource", "HttpConfig", "ImageConfig", "LoaderConfig"]

MiB = 1024 * 1024

_LARGEST = 2**63 - 1
_Count = Annotated[int, Meta(ge=1, le=_LARGEST)]
_Natural = Annotated[int, Meta(ge=0, le=_LARGEST)]
_Seconds = Annotated[float, Meta(gt=0)]
_Aspect = Annotated[float, Meta(ge=0.001, le=1000)]
S = TypeVar("S", bound=Struct)


def _no_json(value: Any) -> str | None:
    """Why the feeder process, which gets the settings as JSON, could not be told this value."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "must be UTF-8 text (for a folder with another name, give a symbolic link to it)"
    return None


class _Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all settings share: constructing one with a wrong value raises ConfigError, as reading it from JSON does."""

    place: ClassVar[str] = ""
    """Where the settings stand in the config, for messages."""

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            self._check(field.name, field.type)
        problem = self._problem()
        if problem:
            raise ConfigError(problem)

    def _check(self, name: str, wanted: Any) -> None:
        """Hold a value given to the constructor to the same rules as one read from JSON."""
        value = getattr(self, name)
        records = [kind for kind in (get_args(wanted) or (wanted,)) if isinstance(kind, type(_Settings))]
        if records and not isinstance(value, tuple(records)):
            names = " or ".join(kind.__name__ for kind in records)
            raise ConfigError(f"{self.place}{name} must be a {names}, got {type(value).__name__}")
        if records:
            return
        try:
            msgspec.structs.force_setattr(self, name, msgspec.convert(value, wanted))  # a list becomes a tuple
        except msgspec.ValidationError as error:
            raise ConfigError(f"{self.place}{name}: {error}, got {_shown(name, value)}") from None
        problem = _no_json(value)
        if problem:
            raise ConfigError(f"{self.place}{name} {problem}, got {_shown(name, value)}")

    def _problem(self) -> str | None:
        """What is wrong with the values taken together, or None."""
        return None


class FileSource(_Settings, frozen=True, kw_only=True):
    """A folder of images, walked with its subfolders in the order of their names; symbolic links are not followed.

    Attributes:
        root_path: the folder.
        random_sampling: true shuffles: each epoch is a full permutation that depends on `seed` and the epoch alone.
            The whole listing is read first (seconds for a million files).
        rank, world_size: this process takes samples rank, rank + world_size, ... of the order that all ranks share.
            Default: the environment's RANK and WORLD_SIZE, else 0 of 1.
    """

    place: ClassVar[str] = "source_config."
    root_path: str
    random_sampling: bool = False
    rank: _Natural | None = None
    world_size: _Count | None = None

    def _problem(self) -> str | None:
        return "source_config.root_path is empty: name a folder of images" if not self.root_path else None


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


class DataroomSource(_Settings, frozen=True, kw_only=True):
    """Images of a Dataroom server that pass all the filters given, in the server's order (by id).

    A filter left empty is not sent. Lists are comma-separated text, as on the server.

    Attributes:
        sources, sources_ne: names of the origins wanted, not wanted. "" means all.
        tags, tags_all, tags_ne, tags_ne_all, tags_empty: any of, all of, none of, not all together; "true" or "false".
        datasets, datasets_all, datasets_ne, datasets_ne_all, datasets_empty: the same for `slug/version`.
        has_attributes, lacks_attributes, has_masks, lacks_masks, has_latents, lacks_latents: names, all of which
            must be there, or none of which may be.
        attributes: `name:value` or `name__comparator:value` pairs, comma-separated, all of which must hold.
        min_short_edge, max_short_edge, min_pixel_count, max_pixel_count: pixels, inclusive; 0 is not sent.
        min_aspect_ratio, max_aspect_ratio: width / height, inclusive; 0 is not sent.
        aspect_ratio_fraction: like "4:3".
        duplicate_state: as in datago, 0 or less filters nothing; 1 originals, 2 duplicates; also "unprocessed".
        embedding_empty: "true" for images without an embedding, "false" for those with one.
        created_after, created_before, updated_after, updated_before: ISO 8601.
        require_images: each sample must have an image (the only kind of sample that this version delivers).
        require_embeddings: ask for `coca_embedding` as well; a sample without one is skipped.
        page_size: samples a request, 1 to 2000.
        random_sampling: true shuffles. See `random_method`.
        random_method: "shuffle": a walk in the server's order through a buffer of `shuffle_buffer` samples that are
            drawn from with `seed`; every sample once an epoch, reproducible. "server": the server's own random pages,
            drawn again and again without repeats until `limit` (which it needs) or until draws bring nothing new.
        shuffle_buffer: samples (names and addresses, not payloads) held to draw from.
        check_count: compare the walk with the server's own count, since a short page can be a time-out of the server.
        api_url: the server, up to and with `/api/`. Default: the environment's DATAROOM_API_URL.
        api_key: 40 hex digits. Default: the environment's DATAROOM_API_KEY. Sent to the origin of `api_url` only.
        rank, world_size: as for files: the ranks share the images without overlap.
    """

    place: ClassVar[str] = "source_config."
    sources: str = ""
    sources_ne: str = ""
    tags: str = ""
    tags_all: str = ""
    tags_ne: str = ""
    tags_ne_all: str = ""
    tags_empty: str = ""
    datasets: str = ""
    datasets_all: str = ""
    datasets_ne: str = ""
    datasets_ne_all: str = ""
    datasets_empty: str = ""
    has_attributes: str = ""
    lacks_attributes: str = ""
    has_masks: str = ""
    lacks_masks: str = ""
    has_latents: str = ""
    lacks_latents: str = ""
    attributes: str = ""
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
    shuffle_buffer: _Count = 10_000
    check_count: bool = True
    api_url: str = ""
    api_key: str = ""
    rank: _Natural | None = None
    world_size: _Count | None = None

    def _problem(self) -> str | None:
        if not self.require_images:
            return "source_config.require_images is false: samples without images are not supported yet"
        if isinstance(self.duplicate_state, int) and not -1 <= self.duplicate_state <= 2:
            return f"source_config.duplicate_state must be -1 to 2 or 'unprocessed', got {self.duplicate_state}"
        if self.api_url and not self.api_url.startswith(("http://", "https://")):
            return f"source_config.api_url must begin with http:// or https://, got {self.shown_address!r}"
        for name in ("tags_empty", "datasets_empty"):
            if getattr(self, name).lower() not in ("", "true", "false", "1", "0"):
                return f"source_config.{name} must be 'true' or 'false', got {getattr(self, name)!r}"
        return None

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


class ImageConfig(_Settings, frozen=True, kw_only=True):
    """What is made of each image.

    Attributes:
        crop_and_resize: true scales every image to cover the aspect-ratio bucket nearest to it and cuts its centre, so
            that batches are dense. False leaves sizes alone: `Batch.image` is then a list.
        default_image_size: pixels; buckets hold about its square.
        downsampling_ratio: pixels; sides of buckets are multiples of it.
        min_aspect_ratio, max_aspect_ratio: width / height of the narrowest and the widest bucket.
        layout: "HWC" or "CHW", the order of axes of one image.
        dtype: "uint8" (0 to 255), or "float16", "float32": values are then in [0, 1], before `mean` and `std`.
        mean, std: three numbers (R, G, B) in units of [0, 1], as torchvision has them; x -> (x - mean) / std.
            They need a floating dtype.
        image_to_rgb8: accepted for datago's sake; batches are RGB with 8 bits a channel in any case.
    """

    place: ClassVar[str] = "image_config."
    crop_and_resize: bool = False
    default_image_size: Annotated[int, Meta(ge=1, le=65_535)] = 512
    downsampling_ratio: _Count = 32
    min_aspect_ratio: _Aspect = 0.5
    max_aspect_ratio: _Aspect = 2.0
    layout: Literal["HWC", "CHW"] = "HWC"
    dtype: Literal["uint8", "float16", "float32"] = "uint8"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    image_to_rgb8: bool = True

    def _problem(self) -> str | None:
        if self.min_aspect_ratio > self.max_aspect_ratio:
            return (f"image_config.min_aspect_ratio ({self.min_aspect_ratio}) is above "
                    f"max_aspect_ratio ({self.max_aspect_ratio}): swap them")  # fmt: skip
        if self.crop_and_resize:
            try:
                self.buckets()
            except ValueError as problem:
                return f"image_config: {problem}; widen the aspect range or lower downsampling_ratio"
        return self._normalisation_problem()

    def _normalisation_problem(self) -> str | None:
        if self.dtype == "uint8" and (self.mean or self.std):
            return "image_config.mean and std need dtype 'float16' or 'float32', got 'uint8'"
        if self.mean and not all(-1 <= value <= 1 for value in self.mean):
            return f"image_config.mean is in units of [0, 1], got {self.mean}: divide by 255"
        if self.std and not all(0 < value <= 1 for value in self.std):
            return f"image_config.std is in units of [0, 1] and above 0, got {self.std}"
        return None

    def buckets(self) -> BucketTable:
        """The table of bucket sizes. Raises ValueError where there is none."""
        return BucketTable(
            self.default_image_size, self.downsampling_ratio, self.min_aspect_ratio, self.max_aspect_ratio
        )


class HttpConfig(_Settings, frozen=True, kw_only=True):
    """How long requests may take and how often they are tried.

    Attributes:
        concurrent_downloads: payloads in flight at once. Also the number of threads that read local files, up to 32.
        connect_timeout_s: to make a connection.
        stall_timeout_s: between two pieces of an answer.
        total_timeout_s: for one try of one request.
        max_tries: tries of one request, the first included, with jittered exponential waits between them.
        max_backoff_s: the longest of those waits, and the longest Retry-After that is honoured.
        hedge_share: extra requests, as a share of all, for payloads that take much longer than the others: the first
            answer wins. 0 makes none.
        max_payload_mb: MiB; a larger payload is skipped, and not read further.
        max_page_mb: MiB; a larger page of the listing is a SourceError.
    """

    place: ClassVar[str] = "http_config."
    concurrent_downloads: _Count = 64
    connect_timeout_s: _Seconds = 10.0
    stall_timeout_s: _Seconds = 30.0
    total_timeout_s: _Seconds = 300.0
    max_tries: _Count = 5
    max_backoff_s: _Seconds = 30.0
    hedge_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    max_payload_mb: _Count = 64
    max_page_mb: _Count = 256


class DecodeConfig(_Settings, frozen=True, kw_only=True):
    """How payloads become pixels.

    Attributes:
        threads: decoding threads; default: the CPUs this process may use, with Pillow one more.
        prefetch: batches inside the decoder at once, so that one decodes while the next is prepared.
        max_pixels: images with more pixels are skipped, by their header.
        hw_decoder_load: share of the JPEGs that the GPU's hardware decoder takes, 0 to 1; default: DALI's own.
            0.0 turns the hardware decoder off.
        fancy_upsampling: true smooths 4:2:0 chroma on the GPU as libjpeg does on the CPU, for equal pixels.
        draft: true lets the Pillow back end decode JPEGs at 1/2, 1/4 or 1/8 where they shrink at least as much. It is
            up to 3 times quicker, and slightly softer than a full decode.
    """

    place: ClassVar[str] = "decode_config."
    threads: _Count | None = None
    prefetch: _Count = 2
    max_pixels: _Count = 100_000_000
    hw_decoder_load: Annotated[float, Meta(ge=0, le=1)] | None = None
    fancy_upsampling: bool = True
    draft: bool = True


class LoaderConfig(_Settings, frozen=True, kw_only=True):
    """Everything a Loader needs to know.

    Attributes:
        source_type, source_config: "file" and a FileSource, or "db" and a DataroomSource.
        image_config, http_config, decode_config: see there.
        batch_size: samples a batch. All samples of a batch share a bucket; at the end of an epoch the batches that
            are not full are delivered short, unless `drop_last`.
        limit: samples to deliver at the most, over all epochs; None for no limit. Exact.
        epochs: passes over the source; None goes on for ever.
        seed: for shuffling. The order depends on the listing, the seed, the epoch, rank and world size alone.
        drop_last: leave out the batches that are not full at the end of an epoch.
        ordered: true delivers in the source's order whatever the network does. False takes payloads as they arrive.
        samples_buffer_size: decoded samples waiting for the trainer; rounded up to whole batches.
        prefetch_buffer_size: samples being fetched or waiting for their turn, ahead of the bucketing.
        bucket_memory_mb: MiB of encoded images held in batches that are not full yet. Beyond it the fullest batch goes
            out short. The order is not affected by timing.
        arena_mb: MiB of shared memory between the feeder process and this one.
        max_failures: bad samples after which the run ends with TooManyErrors: a count (int), or a share of the samples
            (float below 1, looked at from the 100th sample on, and at the end). None skips and counts them only;
            a run in which every sample was bad is an error in any case.
        skipped_file: a file to which every skipped sample is added as a line of JSON: id, reason, detail, where, epoch.
    """

    source_type: Literal["db", "file"] = "db"
    source_config: FileSource | DataroomSource
    image_config: ImageConfig = ImageConfig()
    http_config: HttpConfig = HttpConfig()
    decode_config: DecodeConfig = DecodeConfig()
    batch_size: Annotated[int, Meta(ge=1, le=4096)] = 32
    limit: _Count | None = None
    epochs: _Count | None = 1
    seed: _Natural = 0
    drop_last: bool = False
    ordered: bool = True
    samples_buffer_size: _Count = 64
    prefetch_buffer_size: _Count = 256
    bucket_memory_mb: _Count = 1024
    arena_mb: _Count = 512
    max_failures: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0, lt=1)] | None = None
    skipped_file: str | None = None

    @classmethod
    def load(cls, config: LoaderConfig | dict[str, Any] | str | bytes | Path) -> LoaderConfig:
        """Make the settings from a dict, JSON text, or the Path of a JSON file.

        Raises ConfigError naming the key, the value and the nearest known key.
        """
        if isinstance(config, cls):
            return config
        if isinstance(config, Path):
            config = _read(config)
        if isinstance(config, str | bytes):
            config = _parse(config)
        if not isinstance(config, dict):
            raise ConfigError(f"the config must be a LoaderConfig, a dict or JSON text, got {type(config).__name__}")
        return _build_loader_config(config)

    def _problem(self) -> str | None:
        wanted = _SOURCES[self.source_type]
        if not isinstance(self.source_config, wanted):
            return (f"source_type {self.source_type!r} goes with a {wanted.__name__}, "
                    f"got a {type(self.source_config).__name__}")  # fmt: skip
        if self.http_config.max_payload_mb * 2 > self.arena_mb:
            return (f"arena_mb ({self.arena_mb}) must be at least twice http_config.max_payload_mb "
                    f"({self.http_config.max_payload_mb}): raise the one or lower the other")  # fmt: skip
        if self.draws_from_server and self.limit is None:
            return "source_config.random_method 'server' never ends by itself: set limit"
        rank, world_size = self.rank_and_world_size()
        if rank >= world_size:
            return f"rank ({rank}) must be below world_size ({world_size}); ranks count from 0"
        return None

    @property
    def draws_from_server(self) -> bool:
        """Whether the samples are the server's random draws, which no seed reproduces."""
        source = self.source_config
        return isinstance(source, DataroomSource) and source.random_sampling and source.random_method == "server"

    def rank_and_world_size(self) -> tuple[int, int]:
        """From the settings, else from RANK and WORLD_SIZE of the environment, else (0, 1)."""
        rank, world_size = self.source_config.rank, self.source_config.world_size
        return (
            _from_environment("RANK", 0) if rank is None else rank,
            _from_environment("WORLD_SIZE", 1) if world_size is None else world_size,
        )

    def redacted(self, text: str) -> str:
        """`text` with *** for the API key, should it be there."""
        source = self.source_config
        return redacted(text, source.key) if isinstance(source, DataroomSource) else text

    def with_source(self, **changes: Any) -> LoaderConfig:
        """A copy whose source_config has these values."""
        return msgspec.structs.replace(self, source_config=msgspec.structs.replace(self.source_config, **changes))


_SOURCES: dict[str, type[FileSource | DataroomSource]] = {"file": FileSource, "db": DataroomSource}
_SECTIONS: dict[str, type[_Settings]] = {
    "image_config": ImageConfig,
    "http_config": HttpConfig,
    "decode_config": DecodeConfig,
}


def _build_loader_config(given: dict[str, Any]) -> LoaderConfig:
    _refuse_unknown_keys(given, LoaderConfig, "")
    source_type = given.get("source_type", "db")
    if not isinstance(source_type, str) or source_type not in _SOURCES:
        raise ConfigError(f"source_type must be one of {', '.join(map(repr, _SOURCES))}, got {source_type!r}")
    if given.get("source_config") is None:
        raise ConfigError(f"source_config is missing: source_type {source_type!r} needs it")
    parts = dict(given, source_type=source_type)
    for name, kind in {"source_config": _SOURCES[source_type], **_SECTIONS}.items():
        if parts.get(name) is None:
            parts.pop(name, None)
        elif not isinstance(parts[name], _Settings):
            parts[name] = _build(kind, parts[name], name)
    try:
        return LoaderConfig(**parts)
    except TypeError as error:
        raise ConfigError(str(error)) from None


def _build(kind: type[S], given: Any, where: str) -> S:
    if not isinstance(given, dict):
        raise ConfigError(f"{where} must be an object, got {type(given).__name__}")  # not the value: a key may be in it
    _refuse_unknown_keys(given, kind, f"{where}.")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(error, given, f"{where}.")) from (error.__cause__ or error)


def _explain(error: msgspec.ValidationError, given: dict[str, Any], where: str) -> str:
    text = str(error)
    if isinstance(error.__cause__, ConfigError):
        return str(error.__cause__)
    message, _, path = text.partition(" - at `$")
    name = path.rstrip("`").lstrip(".").split("[")[0]
    if not name:
        return f"{where.rstrip('.')}: {message}"
    return f"{where}{name}: {message}, got {_shown(name, given.get(name))}"


def _shown(name: str, value: Any) -> str:
    if name == "api_url" and isinstance(value, str):
        value = shown_address(value)
    return "***" if name == "api_key" else repr(value)


def _refuse_unknown_keys(given: dict[str, Any], kind: type[Struct], where: str) -> None:
    known = kind.__struct_fields__
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {where}{near[0]}?" if near else f"; known are {', '.join(known)}"
            raise ConfigError(f"unknown key {where}{key}{hint}")


def _parse(text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the config is not JSON: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the config {str(path)!r}: {error.strerror}") from error


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < default:
        raise ConfigError(f"the environment's {name} must be a whole number of at least {default}, got {text!r}")
    return value
