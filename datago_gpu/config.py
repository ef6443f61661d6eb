"""Settings: small frozen records, checked when they are made. Nothing starts with settings that cannot work.

The keys are datago's own schema (`source_type`, `source_config`, `image_config`, `limit`, `samples_buffer_size`,
`prefetch_buffer_size`) and ours. Every problem is a ConfigError that names the key, the value and a way out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from datago_gpu.config_file import read_config
from datago_gpu.errors import ConfigError
from datago_gpu.geometry import BucketTable
from datago_gpu.local_paths import plain_path, true_text
from datago_gpu.redact import redacted
from datago_gpu.settings import Count, Names, Natural, Settings, fields_of, named_key, plain, told, without_secrets
from datago_gpu.shard_config import WebDatasetSource
from datago_gpu.source_config import DataroomSource, FileSource

if TYPE_CHECKING:
    from datago_gpu.proxies import Proxy

__all__ = [
    "SOURCES",
    "ConfigLike",
    "DataroomSource",
    "DecodeConfig",
    "FileSource",
    "HttpConfig",
    "ImageConfig",
    "LoaderConfig",
    "WebDatasetSource",
]

MiB = 1024 * 1024

Seconds = Annotated[float, Meta(gt=0)]
Aspect = Annotated[float, Meta(ge=0.001, le=1000)]
ConfigLike: TypeAlias = "LoaderConfig | Mapping[str, Any] | str | bytes | os.PathLike[str]"


class ImageConfig(Settings, frozen=True, kw_only=True):
    """What is made of each image.

    Attributes:
        crop_and_resize: true scales every image to cover the aspect-ratio bucket nearest to it and cuts its centre, so
            that batches are dense. False leaves sizes alone: `Batch.image` is then a list.
        default_image_size: pixels; buckets hold about its square.
        downsampling_ratio: pixels; sides of buckets are multiples of it.
        min_aspect_ratio: width / height of the narrowest bucket.
        max_aspect_ratio: width / height of the widest bucket.
        layout: "HWC" or "CHW", the order of axes of one image.
        dtype: "uint8" (0 to 255), or "float16", "float32": values are then in [0, 1], before `mean` and `std`.
        mean: three numbers (R, G, B) in units of [0, 1], as torchvision has them: x becomes (x - mean) / std. Needs a
            floating dtype.
        std: three numbers (R, G, B) in units of [0, 1], by which x - mean is divided. Needs a floating dtype.
        mask_interpolation: "nearest" keeps the values of masks (labels); "lanczos" scales them as datago does.
        mask_dtype: of masks with "nearest". "auto" keeps every label: uint8, but uint16 for gray of 16 bits and int32
            for gray of 32; a batch has the widest dtype that one of its masks needs. "int32": always int32, for a dtype
            that never changes. "uint8": always uint8; 16 bits are scaled to 8, as brightness.
        image_to_rgb8: true makes all images RGB with 8 bits a channel. False leaves them their own channels and depth:
            (H, W, C) with 1 (gray), 2, 3 or 4 (with alpha), uint8 or uint16; `Batch.image` is then a list. Those that
            are not RGB are decoded on the CPU. Masks keep theirs as well where `mask_interpolation` is "lanczos".
        mixed_buckets: true fills batches in the source's order, whatever the buckets of the images: the first comes
            sooner. `Batch.image` is then a list, and `bucket` None where they differ.
        pre_encode_images: true gives each image as bytes, encoded again: `Batch.image` is a list of N bytes, as are
            masks and further images. nvJPEG encodes on a GPU, Pillow on the CPU.
        encode_format: "png" or "jpeg", of encoded images. Masks are PNG in any case.
        jpeg_quality: 1 to 100.
    """

    place: ClassVar[str] = "image_config."
    crop_and_resize: bool = False
    default_image_size: Annotated[int, Meta(ge=1, le=65_535)] = 512
    downsampling_ratio: Count = 32
    min_aspect_ratio: Aspect = 0.5
    max_aspect_ratio: Aspect = 2.0
    layout: Literal["HWC", "CHW"] = "HWC"
    dtype: Literal["uint8", "float16", "float32"] = "uint8"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    mask_interpolation: Literal["nearest", "lanczos"] = "nearest"
    mask_dtype: Literal["auto", "uint8", "int32"] = "auto"
    image_to_rgb8: bool = True
    mixed_buckets: bool = False
    pre_encode_images: bool = False
    encode_format: Literal["png", "jpeg"] = "png"
    jpeg_quality: Annotated[int, Meta(ge=1, le=100)] = 92

    def _problem(self) -> str | None:
        if self.min_aspect_ratio > self.max_aspect_ratio:
            return (f"image_config.min_aspect_ratio ({self.min_aspect_ratio}) is above "
                    f"max_aspect_ratio ({self.max_aspect_ratio}): swap them")  # fmt: skip
        if self.crop_and_resize:
            try:
                self.buckets()
            except ValueError as problem:
                return f"image_config: {problem}; widen the aspect range or lower downsampling_ratio"
        return self._form_problem() or self._normalisation_problem() or self._mask_problem()

    def _form_problem(self) -> str | None:
        """Of images that are not arrays of one form."""
        if (self.layout, self.dtype) == ("HWC", "uint8") or (self.image_to_rgb8 and not self.pre_encode_images):
            return None
        cause = "pre_encode_images encodes" if self.pre_encode_images else "image_to_rgb8 false keeps"
        return (f"image_config.{cause} images as they are stored: it goes with layout 'HWC' and dtype 'uint8', "
                f"got {self.layout!r} and {self.dtype!r}")  # fmt: skip

    def _normalisation_problem(self) -> str | None:
        if self.dtype == "uint8" and (self.mean or self.std):
            return "image_config.mean and std need dtype 'float16' or 'float32', got 'uint8'"
        if self.mean and not all(-1 <= value <= 1 for value in self.mean):
            return f"image_config.mean is in units of [0, 1], got {self.mean}: divide by 255"
        if self.std and not all(0 < value <= 1 for value in self.std):
            return f"image_config.std is in units of [0, 1] and above 0, got {self.std}"
        return None

    def _mask_problem(self) -> str | None:
        if self.mask_dtype != "int32":
            return None
        if self.mask_interpolation != "nearest":
            return ("image_config.mask_dtype 'int32' is for labels, which mask_interpolation "
                    f"{self.mask_interpolation!r} would blend: set it to 'nearest'")  # fmt: skip
        if self.pre_encode_images:
            return "image_config.mask_dtype 'int32' does not go with pre_encode_images: a PNG holds 16 bits at the most"
        return None

    def buckets(self) -> BucketTable:
        """The table of bucket sizes. Raises ValueError where there is none."""
        return BucketTable(
            self.default_image_size, self.downsampling_ratio, self.min_aspect_ratio, self.max_aspect_ratio
        )


class HttpConfig(Settings, frozen=True, kw_only=True):
    """How long requests may take and how often they are tried.

    Attributes:
        concurrent_downloads: payloads in flight at once. Also the number of threads that read local files, up to 32.
        download_processes: further processes that download the payloads of a Dataroom, each a share of them; the order
            stays the same. 0: the feeder does it itself, which is enough for some 8,000 small payloads a second.
        connect_timeout_s: to make a connection.
        stall_timeout_s: between two pieces of an answer.
        total_timeout_s: for one try of one request.
        max_tries: tries of one request, the first included, with jittered exponential waits between them.
        max_backoff_s: the longest of those waits.
        max_retry_after_s: the longest that one request waits, in all, because the server said when to come back
            (Retry-After). Such waits are no tries.
        hedge_share: extra requests, as a share of all, for payloads that take much longer than the others: the first
            answer wins. 0 makes none.
        max_payload_mb: MiB; a larger payload is skipped, and not read further.
        max_page_mb: MiB, before and after decompression; a larger page of the listing is a SourceError.
        allow_hosts: the only hosts that may be asked, comma-separated or a list: names ("example.org", "*.example.org"
            for all names below it), addresses and networks ("10.0.0.0/8"). "" allows every host but those of
            `deny_hosts` and link-local addresses, where clouds keep credentials; those are allowed only by an entry
            here.
        deny_hosts: hosts that are never asked, in the same form. A host is looked at by its name and by the addresses
            that it resolves to, also behind a redirect. By way of a proxy, which resolves names by itself, by its name
            alone.
        trust_env: true uses the proxies that the environment names, as most programs do: HTTP_PROXY, HTTPS_PROXY,
            ALL_PROXY, and NO_PROXY for hosts that are asked directly. Loopback addresses always are.
        proxy: the proxy for http, https and object storage, before those of the environment, such as
            "http://proxy.example:3128" or "http://NAME:PASSWORD@proxy.example:3128". NO_PROXY holds for it, too.
    """

    place: ClassVar[str] = "http_config."
    concurrent_downloads: Count = 64
    download_processes: Annotated[int, Meta(ge=0, le=64)] = 0
    connect_timeout_s: Seconds = 10.0
    stall_timeout_s: Seconds = 30.0
    total_timeout_s: Seconds = 300.0
    max_tries: Count = 5
    max_backoff_s: Seconds = 30.0
    max_retry_after_s: Annotated[float, Meta(ge=0)] = 600.0
    hedge_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    max_payload_mb: Count = 64
    max_page_mb: Count = 64
    allow_hosts: Names = ""
    deny_hosts: Names = ""
    trust_env: bool = True
    proxy: str = ""

    def _problem(self) -> str | None:
        try:
            self._proxy  # noqa: B018 - it is read to be checked
        except ValueError as problem:
            return str(problem)
        for name in ("allow_hosts", "deny_hosts"):
            if entries := getattr(self, name):
                from datago_gpu.host_policy import HostPolicy  # `import datago_gpu` can do without

                try:
                    HostPolicy(entries)
                except ValueError as problem:
                    return f"http_config.{name}: {problem}"
        return None

    def redacted(self, text: str) -> str:
        """`text` with *** for the password of the proxy, should it be there."""
        return without_secrets(text, self._proxy.secrets if self._proxy else ())

    def __repr__(self) -> str:
        return f"HttpConfig({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too: what was set, less what is secret."""
        return told(self, proxy=self._proxy.address if self._proxy else "")

    @property
    def _proxy(self) -> Proxy | None:
        """What `proxy` means. Raises ValueError where it cannot be used."""
        if not self.proxy.strip():
            return None
        from datago_gpu.proxies import SETTING, parsed_proxy  # `import datago_gpu` can do without

        return parsed_proxy(self.proxy, SETTING)


class DecodeConfig(Settings, frozen=True, kw_only=True):
    """How payloads become pixels.

    Attributes:
        threads: decoding threads; default: the CPUs this process may use, with Pillow one more. On a GPU the default is
            this process's share of the CPUs (`LOCAL_WORLD_SIZE`), up to 16, and half as many for masks: each takes 16
            MiB of the GPU and of pinned memory.
        prefetch: batches inside the decoder at once, so that one decodes while the next is prepared.
        max_pixels: images with more pixels are skipped, by their header.
        memory_mb: MiB that pictures may take while they are decoded, in the trainer and in the feeder each: of large
            ones, fewer are decoded at the same time. A picture that needs more than that is decoded alone. Default: 256
            for each CPU that this process may use, or for each of `threads`, and at least 1024. With DALI it holds for
            images, masks and further images each; on a GPU it is GPU memory, and the default is 8192.
        hw_decoder_load: share of the JPEGs that the GPU's hardware decoder takes, 0 to 1; default: DALI's own.
            0.0 turns the hardware decoder off.
        fancy_upsampling: true smooths 4:2:0 chroma on the GPU as libjpeg does on the CPU, for equal pixels.
        draft: true lets the Pillow back end decode JPEGs at 1/2, 1/4 or 1/8 where they shrink at least as much. It is
            up to 3 times quicker, and slightly softer than a full decode.
    """

    place: ClassVar[str] = "decode_config."
    threads: Count | None = None
    prefetch: Count = 2
    max_pixels: Count = 100_000_000
    memory_mb: Count | None = None
    hw_decoder_load: Annotated[float, Meta(ge=0, le=1)] | None = None
    fancy_upsampling: bool = True
    draft: bool = True


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
