"""Settings: small frozen records, checked when they are made. Nothing starts with settings that cannot work.

The keys are datago's own schema (`source_type`, `source_config`, `image_config`, `limit`, `samples_buffer_size`,
`prefetch_buffer_size`) and ours. Every problem is a ConfigError that names the key, the value and a way out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from datago_gpu.config.batch_sizes import BatchSizes
from datago_gpu.config.cache_config import CacheConfig
from datago_gpu.config.dataroom import DataroomSource
from datago_gpu.config.decode_config import DecodeConfig
from datago_gpu.config.file import read_config
from datago_gpu.config.http_config import HttpConfig
from datago_gpu.config.image_config import ImageConfig
from datago_gpu.config.local_paths import plain_path, true_text
from datago_gpu.config.lockstep_rules import lockstep_problem
from datago_gpu.config.mix import PLAIN_SOURCES, MixSource, PlainSource
from datago_gpu.config.ranks import find_ranks, log_once
from datago_gpu.config.sections import make_record, refuse_unknown_keys
from datago_gpu.config.settings import Count, Natural, Settings, json_value
from datago_gpu.errors import ConfigError

__all__ = ["SOURCES", "ConfigLike", "LoaderConfig"]

ConfigLike: TypeAlias = "LoaderConfig | Mapping[str, Any] | str | bytes | os.PathLike[str]"


class LoaderConfig(BatchSizes, frozen=True, kw_only=True):
    """Everything a Loader needs to know.

    Attributes:
        source_type: "file" for a folder of images, "db" for a Dataroom server, "webdataset" for tar shards, "table" for
            rows of tables, "rows" for rows of the program's own (`Loader(config, source=rows)`), "mix" for several of
            these, mixed by weights.
        source_config: the settings of the source: a FileSource, DataroomSource, WebDatasetSource, TableSource,
            UserSource or MixSource, as `source_type` requires, or a dict.
        image_config: what is made of each image: an ImageConfig or a dict.
        http_config: how long requests may take and how often they are retried: an HttpConfig or a dict.
        decode_config: how encoded images become pixels: a DecodeConfig or a dict.
        cache_config: a folder that keeps what was downloaded: a CacheConfig or a dict.
        batch_size: number of samples in a batch. All samples of a batch share a bucket. At the end of an epoch, batches
            that are not full are delivered short, unless `drop_last` is true.
        batch_pixels: number of pixels in a batch, in place of `batch_size`: a batch has as many samples as fit, at
            least 1 and at most 4096. So batches of small buckets have more samples. None: `batch_size` in each batch.
        limit: maximum number of samples that this process delivers, over all epochs: with several ranks, each of them
            delivers so many. None: no limit.
        epochs: number of passes over the source. None: no end. A Loader delivers all passes in one iteration.
        seed: seed of all shuffles. The order depends only on the listing, the seed, the epoch, `rank` and `world_size`,
            and for shards also on `interleave`.
        drop_last: true leaves out the batches that are not full at the end of the run. Between two epochs of a run,
            their samples wait for samples of the next epoch. `stats().dropped` counts the samples left out.
        lockstep: true plans the batches of all ranks together: each rank delivers the same number of batches, the same
            bucket at each step, and exactly `batch_size` samples in each batch. `Batch.real` is false for a sample that
            only fills a place. Needs samples whose sizes are listed (source_type "table" or "db", or a
            sequence of rows of the program's own) and `crop_and_resize`. `limit` is rounded down to whole batches,
            `drop_last` leaves out the last batch of each bucket in every epoch if it is not full, and the order is also
            kept with `ordered` false.
        ordered: true delivers samples in the source's order, whatever the network does. False delivers payloads as they
            arrive: each epoch still contains each sample once and ends before the next epoch begins, and a state
            resumes without loss. Samples of shards keep their order, except for images that only Pillow can decode.
        samples_buffer_size: number of decoded samples that may wait for the trainer, rounded up to whole batches.
        samples_buffer_mb: memory limit in MiB for samples that are being decoded or wait for the trainer. Used only if
            images keep their sizes (`crop_and_resize` is false). A batch that would exceed the limit is delivered
            short.
        prefetch_buffer_size: number of samples that may be downloading, or downloaded and waiting to be put into a
            batch.
        prefetch_memory_mb: memory limit in MiB for prefetched samples, including those that are downloading. If images
            are large, fewer are prefetched, estimated from the sizes of recent samples; samples larger than estimated
            wait. The sample that is next in order never waits.
        bucket_memory_mb: memory limit in MiB for encoded images in batches that are not full yet. Above the limit, the
            fullest batch is delivered short. This does not depend on timing.
        arena_mb: size in MiB of the memory that the feeder process and the trainer's process share. At least twice
            `http_config.max_payload_mb`.
        max_failures: number of bad samples above which the run ends with TooManyErrors: a count (int), or a share of
            all samples (float below 1), checked from the 100th sample on and at the end. None: no limit; bad samples
            are skipped and counted. In every case, TooManyErrors is raised if all samples of a run are bad, or all
            samples of its last epochs; with `lockstep`, if these are at least 100. Images that are `too-small` count
            only for this last rule. A run that resumes from a state counts as one run with the earlier one.
        max_refused_in_a_row: number of consecutive samples that cannot be loaded (refused, missing or unreadable) after
            which the run ends with SourceError, because then the source is at fault. For shards the number is a third
            of this, and at the end of the listing a quarter. None: no limit.
        skipped_file: file to which each skipped sample is appended as one line of JSON with the keys id, reason,
            detail, where and epoch.
        base_folder: folder for relative paths in `root_path`, `url`, the lines of an @FILE, `path` (also of
            `cache_config`), `root`, and `skipped_file`. Default: the working folder when the Loader or LoaderDataset is
            made.

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

    source_type: Literal["db", "file", "webdataset", "table", "rows", "mix"] = "db"
    source_config: PlainSource | MixSource
    image_config: ImageConfig = ImageConfig()
    http_config: HttpConfig = HttpConfig()
    decode_config: DecodeConfig = DecodeConfig()
    cache_config: CacheConfig = CacheConfig()
    limit: Count | None = None
    epochs: Count | None = 1
    seed: Natural = 0
    drop_last: bool = False
    lockstep: bool = False
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
            return read_config(config).convert(cls._from_values)
        return cls._from_values(config)

    @classmethod
    def load_for_rows(cls, config: ConfigLike) -> LoaderConfig:
        """Make the settings for `Loader(config, source=rows)`, which need no source_type and no source_config.

        A mix may have such rows as one of its sources.
        """
        if isinstance(config, cls):
            loaded = config
        elif isinstance(config, str | bytes | os.PathLike):
            loaded = read_config(config).convert(lambda given: cls._from_values(_with_rows(given)))
        else:
            loaded = cls._from_values(_with_rows(config))
        if not loaded.takes_rows:
            raise ConfigError(
                f"source_type is {loaded.source_type!r}, but rows were given as well: leave out source_type and "
                "source_config, or the argument `source`. A mix takes rows as a source of source_type 'rows'"
            )
        return loaded

    @classmethod
    def _from_values(cls, given: Any) -> LoaderConfig:
        if not isinstance(given, Mapping):
            raise ConfigError(
                "the config must be a LoaderConfig, a dict, JSON text or the path of a JSON file, "
                f"got {type(given).__name__}"
            )
        refuse_unknown_keys(given, cls, "", _right_place)
        if given.get("source_config") is None:
            source_type = given.get("source_type", "db")
            raise ConfigError(f"source_config is missing: source_type {json_value(source_type)!r} needs it")
        return cls(**given)

    def _record(self, name: str, given: Any, kinds: list[type[Settings]]) -> Settings:
        if isinstance(given, Settings) and isinstance(given, tuple(kinds)):
            return given
        kind: type[Settings] = SOURCES[self.source_type] if name == "source_config" else kinds[0]
        if given is None and name in _SECTIONS:
            return kind()
        return make_record(kind, name, given, _right_place)

    def _problem(self) -> str | None:
        wanted: type[Settings] = SOURCES[self.source_type]
        if not isinstance(self.source_config, wanted):
            return (f"source_type {self.source_type!r} needs a {wanted.__name__}, "
                    f"got a {type(self.source_config).__name__}")  # fmt: skip
        if self.http_config.max_payload_mb * 2 > self.arena_mb:
            return (f"arena_mb ({self.arena_mb}) must be at least twice http_config.max_payload_mb "
                    f"({self.http_config.max_payload_mb}): raise arena_mb or lower max_payload_mb")  # fmt: skip
        if self.http_config.download_processes and self.source_type not in ("db", "table"):
            return ("http_config.download_processes works only for a Dataroom (source_type 'db') and for addresses "
                    f"in a table: set it to 0 with source_type {self.source_type!r}")  # fmt: skip
        if problem := self._cache_problem() or self._pixels_problem():
            return problem
        if self.lockstep and (problem := lockstep_problem(self)):
            return problem
        if problem := self._mix_problem():
            return problem
        if self.draws_from_server and self.limit is None:
            return "source_config.random_method 'server' draws samples without end: set limit"
        rank, world_size = self.rank_and_world_size()
        if rank >= world_size:
            return f"rank ({rank}) must be below world_size ({world_size}); ranks count from 0"
        return None

    @property
    def wants_sizes(self) -> bool:
        """Whether the sizes that a source lists are used."""
        too_small = self.source_config.min_short_edge > 0 and self.source_type != "db"  # a Dataroom filters by it
        return self.lockstep or not self.image_config.upscale or too_small

    @property
    def draws_from_server(self) -> bool:
        """Whether the samples are the server's random draws, which no seed reproduces."""
        source = self.source_config
        return isinstance(source, DataroomSource) and source.random_sampling and source.random_method == "server"

    def rank_and_world_size(self) -> tuple[int, int]:
        """Returns the settings; what is not set is found as `find_ranks` says, or is (0, 1)."""
        rank, world_size = self.source_config.rank, self.source_config.world_size
        if rank is not None and world_size is not None:
            return rank, world_size
        found = find_ranks()
        return found.rank if rank is None else rank, found.world_size if world_size is None else world_size

    def anchor_paths(self) -> LoaderConfig:
        """Returns a copy whose relative paths start at the current working folder, wherever the program goes."""
        return msgspec.structs.replace(self, base_folder=_absolute_folder(self.base_folder or ""))

    def resolve(self) -> LoaderConfig:
        """Returns a copy with anchored paths, rank and world size, which no later change around the program affects."""
        return self.anchor_paths().with_ranks()

    def with_ranks(self) -> LoaderConfig:
        """Returns a copy with rank and world size set. Logs once where they were found, and warns of contradictions."""
        source = self.source_config
        if source.rank is not None and source.world_size is not None:
            return self
        found = find_ranks()
        if found.doubt:
            log_once(logging.WARNING, found.doubt)
        rank, world_size = self.rank_and_world_size()
        if found.origin and world_size > 1:
            log_once(logging.INFO, f"this process loads the share of rank {rank} of {world_size}, by {found.origin}")
        return self.with_source(rank=rank, world_size=world_size)

    def absolute(self, path: str) -> str:
        """The path that `path` means: it may be relative to `base_folder`, begin with `~`, or hold variables.

        Raises ConfigError where that could not be told.
        """
        base = _absolute_folder("") if self.base_folder is None else self.base_folder
        path = plain_path(path, base)
        if "\0" in path:
            raise ConfigError(
                f"{path!r} is not a path: it contains the character NUL (\\x00, %00 in a file:// address)"
            )
        if not base and not os.path.isabs(path):
            raise ConfigError(
                f"{path!r} is relative, and the working folder was removed, or its name is not UTF-8 text: "
                "use an absolute path, or set base_folder"
            )
        return os.path.normpath(os.path.join(base, path))

    def redacted(self, text: str) -> str:
        """`text` with *** for the API key and other secrets, should they be there."""
        return self.source_config.redacted(self.http_config.redacted(text))

    def with_source(self, **changes: Any) -> LoaderConfig:
        """A copy whose source_config has these values."""
        return msgspec.structs.replace(self, source_config=msgspec.structs.replace(self.source_config, **changes))


SOURCES: dict[str, type[PlainSource | MixSource]] = {**PLAIN_SOURCES, "mix": MixSource}
_SECTIONS: dict[str, type[Settings]] = {
    "image_config": ImageConfig,
    "http_config": HttpConfig,
    "decode_config": DecodeConfig,
    "cache_config": CacheConfig,
}

_OTHER_NAMES = {
    "shuffle": "source_config.random_sampling",
    "num_workers": "decode_config.processes",
    "prefetch_factor": "samples_buffer_size",
    "size": "image_config.default_image_size",
    "image_size": "image_config.default_image_size",
    "transform": "an argument of datago_gpu.torch.LoaderDataset(config, transform=...)",
    "weights": "a `weight` in each source of a mix",
}
"""What other loaders call a setting."""


def _with_rows(given: Any) -> Any:
    """Adds the source of the program's own rows to settings that name no source."""
    if not isinstance(given, Mapping) or given.get("source_type", "rows") != "rows":  # a mix names it itself
        return given
    return {**given, "source_type": "rows", "source_config": given.get("source_config") or {}}


def _right_place(key: object) -> str:
    """Where a key belongs that stands in the wrong place, in words; empty for one that is known nowhere."""
    if key in ("device", "backend"):
        return f"it is an argument, not a setting: Loader(config, {key}=...), or the flag --{key}"
    if key in LoaderConfig.__struct_fields__:
        return f"{key} belongs at the top level"
    for name, kind in _SECTIONS.items():
        if key in kind.__struct_fields__:
            return f"it belongs in {name}"
    types = [repr(name) for name, kind in SOURCES.items() if key in kind.__struct_fields__]
    if types:
        return f"it belongs in the source_config of source_type {' or '.join(types)}"
    return f"here, this is {_OTHER_NAMES[key]}" if isinstance(key, str) and key in _OTHER_NAMES else ""


def _absolute_folder(folder: str) -> str:
    """The folder as an absolute path; empty where it is relative to a working folder that cannot be told."""
    try:
        path = true_text(os.path.abspath(plain_path(folder, "")))
        path.encode()
    except (FileNotFoundError, UnicodeEncodeError):
        return ""
    return path
