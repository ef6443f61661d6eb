"""Settings: small frozen records, checked when they are made. Nothing starts with settings that cannot work.

The keys are datago's own schema (`source_type`, `source_config`, `image_config`, `limit`, `samples_buffer_size`,
`prefetch_buffer_size`) and ours. Every problem is a ConfigError that names the key, the value and a way out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from datago_gpu.config.base import Count, Natural, Settings, fields_of, named_key, plain
from datago_gpu.config.decoding import DecodeConfig
from datago_gpu.config.file import read_config
from datago_gpu.config.http import HttpConfig
from datago_gpu.config.images import ImageConfig
from datago_gpu.config.local_paths import plain_path, true_text
from datago_gpu.config.shards import WebDatasetSource
from datago_gpu.config.sources import DataroomSource, FileSource
from datago_gpu.errors import ConfigError
from datago_gpu.redact import redacted

__all__ = ["SOURCES", "ConfigLike", "LoaderConfig"]

ConfigLike: TypeAlias = "LoaderConfig | Mapping[str, Any] | str | bytes | os.PathLike[str]"


class LoaderConfig(Settings, frozen=True, kw_only=True):
    """Everything a Loader needs to know.

    Attributes:
        source_type: "file" for a folder of images, "db" for a Dataroom server, "webdataset" for tar shards.
        source_config: the FileSource, DataroomSource or WebDatasetSource that goes with it, or a dict of its settings.
        image_config: what is made of each image: see ImageConfig.
        http_config: how long requests may take and how often they are tried: see HttpConfig.
        decode_config: how payloads become pixels: see DecodeConfig.
        batch_size: samples a batch. All samples of a batch share a bucket; at the end of an epoch the batches that
            are not full are delivered short, unless `drop_last`.
        limit: samples to deliver at the most, over all epochs; None for no limit. Exact.
        epochs: passes over the source; None goes on for ever.
        seed: for shuffling. The order depends on the listing, the seed, the epoch, rank and world size alone; of
            shards on `interleave` too.
        drop_last: leave out the batches that are not full at the end of the run. Between two epochs of one run, their
            samples wait for those of the next epoch; `stats().dropped` counts what is left out in the end.
        ordered: true delivers in the source's order whatever the network does. False takes payloads as they arrive.
            Each epoch still brings each sample once, before the next epoch begins, and a state goes on without loss.
            What comes in shards keeps its order, but for pictures that Pillow alone can decode.
        samples_buffer_size: decoded samples waiting for the trainer; rounded up to whole batches.
        samples_buffer_mb: MiB that they and those being decoded may take where images keep their sizes
            (`crop_and_resize` false); a batch that would take more goes out short.
        prefetch_buffer_size: samples being fetched or waiting for their turn, ahead of the bucketing.
        prefetch_memory_mb: MiB that they may take, those that are on their way included: fewer large ones are fetched
            ahead, by the usual size of those before them, and where they are larger than usual they wait. The one whose
            turn is next never waits.
        bucket_memory_mb: MiB of encoded images held in batches that are not full yet. Beyond it the fullest batch goes
            out short. The order is not affected by timing.
        arena_mb: MiB of shared memory between the feeder process and this one.
        max_failures: bad samples after which the run ends with TooManyErrors: a count (int), or a share of the samples
            (float below 1, looked at from the 100th sample on, and at the end). None skips and counts them only;
            a run in which every sample was bad is an error in any case, as is one whose last passes over the source
            brought only bad ones. A run that goes on from a state counts as one with the run before.
        max_refused_in_a_row: samples in a row that cannot be had (refused, missing, unreadable), with no other between,
            after which the run ends with SourceError: the source is at fault then. A third as many shards count the
            same, and a quarter of it at the end of the listing. None: any number.
        skipped_file: a file to which every skipped sample is added as a line of JSON: id, reason, detail, where, epoch.
        base_folder: where relative paths begin: those of `root_path`, `url`, the lines of an @FILE, and `skipped_file`.
            Default: the working folder at the time when the Loader or LoaderDataset is made.

    >>> config = LoaderConfig(
    ...     source_type="file",
    ...     source_config=FileSource(root_path="photos", random_sampling=True),
    ...     image_config=ImageConfig(crop_and_resize=True, default_image_size=512),
    ...     batch_size=64,
    ... )
    >>> config == LoaderConfig.load({
    ...     "source_type": "file",
    ...     "source_config": {"root_path": "photos", "random_sampling": True},
    ...     "image_config": {"crop_and_resize": True, "default_image_size": 512},
    ...     "batch_size": 64,
    ... })
    True
    """

    source_type: Literal["db", "file", "webdataset"] = "db"
    source_config: FileSource | DataroomSource | WebDatasetSource
    image_config: ImageConfig = ImageConfig()
    http_config: HttpConfig = HttpConfig()
    decode_config: DecodeConfig = DecodeConfig()
    batch_size: Annotated[int, Meta(ge=1, le=4096)] = 32
    limit: Count | None = None
    epochs: Count | None = 1
    seed: Natural = 0
    drop_last: bool = False
    ordered: bool = True
    samples_buffer_size: Count = 64
    samples_buffer_mb: Count = 4096
    prefetch_buffer_size: Count = 256
    prefetch_memory_mb: Count = 512
    bucket_memory_mb: Count = 1024
    arena_mb: Count = 512
    max_failures: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0, lt=1)] | None = None
    max_refused_in_a_row: Count | None = 64
    skipped_file: str | None = None
    base_folder: str | None = None

    @classmethod
    def load(cls, config: ConfigLike) -> LoaderConfig:
        """Make the settings from a dict, JSON text, or the path of a JSON or YAML file.

        A str that ends in .json, .yaml or .yml is a path; any other str is JSON text. Raises ConfigError naming the
        key, the value and the nearest known key, and of a file its name and the line.
        """
        if isinstance(config, cls):
            return config
        if isinstance(config, str | bytes | os.PathLike):
            return read_config(config).checked(cls._made_of)
        return cls._made_of(config)

    @classmethod
    def _made_of(cls, given: Any) -> LoaderConfig:
        if not isinstance(given, Mapping):
            raise ConfigError(
                "the config must be a LoaderConfig, a dict, JSON text or the path of a JSON file, "
                f"got {type(given).__name__}"
            )
        _refuse_unknown_keys(given, cls, "")
        if given.get("source_config") is None:
            source_type = given.get("source_type", "db")
            raise ConfigError(f"source_config is missing: source_type {plain(source_type)!r} needs it")
        return cls(**given)

    def _record(self, name: str, given: Any, kinds: list[type[Settings]]) -> Settings:
        if isinstance(given, Settings) and isinstance(given, tuple(kinds)):
            return given
        kind: type[Settings] = SOURCES[self.source_type] if name == "source_config" else kinds[0]
        if given is None and name in _SECTIONS:
            return kind()
        if not isinstance(given, Mapping):  # not the value in the message: a key may be in it
            raise ConfigError(f"{name} must be a dict or {kind.__name__}, got {type(given).__name__}")
        _refuse_unknown_keys(given, kind, f"{name}.")
        for field in fields_of(kind):
            if field.required and field.name not in given:
                raise ConfigError(f"{name}.{field.name} is missing")
        return kind(**given)

    def _problem(self) -> str | None:
        wanted = SOURCES[self.source_type]
        if not isinstance(self.source_config, wanted):
            return (f"source_type {self.source_type!r} goes with a {wanted.__name__}, "
                    f"got a {type(self.source_config).__name__}")  # fmt: skip
        if self.http_config.max_payload_mb * 2 > self.arena_mb:
            return (f"arena_mb ({self.arena_mb}) must be at least twice http_config.max_payload_mb "
                    f"({self.http_config.max_payload_mb}): raise the one or lower the other")  # fmt: skip
        if self.http_config.download_processes and self.source_type != "db":
            return ("http_config.download_processes is for the single payloads of a Dataroom (source_type 'db'): with "
                    f"source_type {self.source_type!r} leave it at 0")  # fmt: skip
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

    def anchored(self) -> LoaderConfig:
        """A copy whose relative paths begin in the working folder of now, wherever the program goes later."""
        return msgspec.structs.replace(self, base_folder=_anchor(self.base_folder or ""))

    def settled(self) -> LoaderConfig:
        """A copy that is `anchored`, with rank and world size, so that no later change around the program matters."""
        rank, world_size = self.rank_and_world_size()
        return self.anchored().with_source(rank=rank, world_size=world_size)

    def absolute(self, path: str) -> str:
        """The path that `path` means: it may be relative to `base_folder`, begin with `~`, or hold variables.

        Raises ConfigError where that could not be told.
        """
        base = _anchor("") if self.base_folder is None else self.base_folder
        path = plain_path(path, base)
        if "\0" in path:
            raise ConfigError(f"{path!r} is no path: it holds the character NUL (\\x00, %00 in a file:// address)")
        if not base and not os.path.isabs(path):
            raise ConfigError(
                f"{path!r} is relative, and the working folder is gone, or its name is not UTF-8 text: "
                "give an absolute path, or set base_folder"
            )
        return os.path.normpath(os.path.join(base, path))

    def redacted(self, text: str) -> str:
        """`text` with *** for the API key and other secrets, should they be there."""
        source, text = self.source_config, self.http_config.redacted(text)
        return redacted(text, source.key) if isinstance(source, DataroomSource) else source.redacted(text)

    def with_source(self, **changes: Any) -> LoaderConfig:
        """A copy whose source_config has these values."""
        return msgspec.structs.replace(self, source_config=msgspec.structs.replace(self.source_config, **changes))


SOURCES: dict[str, type[FileSource | DataroomSource | WebDatasetSource]] = {
    "file": FileSource,
    "db": DataroomSource,
    "webdataset": WebDatasetSource,
}
_SECTIONS: dict[str, type[Settings]] = {
    "image_config": ImageConfig,
    "http_config": HttpConfig,
    "decode_config": DecodeConfig,
}


def _refuse_unknown_keys(given: Mapping[Any, Any], kind: type[Struct], where: str) -> None:
    known = kind.__struct_fields__
    for key in given:
        if key not in known:
            import difflib  # for this message only: it would delay the start of the feeder

            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {where}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown key {where}{named_key(key)}; {_home(key) or hint}")


def _home(key: object) -> str:
    """Where a key belongs that stands in the wrong place, in words; empty for one that is known nowhere."""
    if key in ("device", "backend"):
        return f"it is no setting but an argument: Loader(config, {key}=...), or --{key} of a command"
    if key in LoaderConfig.__struct_fields__:
        return f"{key} belongs at the top"
    for name, kind in _SECTIONS.items():
        if key in kind.__struct_fields__:
            return f"it belongs in {name}"
    types = [repr(name) for name, kind in SOURCES.items() if key in kind.__struct_fields__]
    return f"it belongs in the source_config of source_type {' or '.join(types)}" if types else ""


def _anchor(folder: str) -> str:
    """The folder as an absolute path; empty where it is relative to a working folder that cannot be told."""
    try:
        path = true_text(os.path.abspath(plain_path(folder, "")))
        path.encode()
    except (FileNotFoundError, UnicodeEncodeError):
        return ""
    return path


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
