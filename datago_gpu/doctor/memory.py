"""Computes the maximum memory of a run from its settings. docs/operations/memory.md explains this sum."""

from __future__ import annotations

from msgspec import Struct

from datago_gpu.config import DataroomSource, LoaderConfig, TableSource, WebDatasetSource
from datago_gpu.config.limits import (
    Limits,
    decode_processes,
    decoded_batches,
    decoded_pixel_bytes,
    files_of_a_sample,
    wants_latents,
)
from datago_gpu.decoders.threads import pillow_threads
from datago_gpu.imaging.allowance import KEPT
from datago_gpu.units import MiB

__all__ = ["MemorySum"]

_TRAINER = {"pillow": 64 * MiB, "dali": 256 * MiB}
_FEEDER, _DOWNLOADING = 80 * MiB, 64 * MiB
"""Memory for Python, the imported modules, and freed memory that the heap keeps, per process."""
_FORK_SERVER, _DECODING = 48 * MiB, 8 * MiB
"""Memory for Python and the imported modules, and what each decode process has beside these."""
_SHUFFLED = 256 * MiB
_TABLES = 160 * MiB
_PAGES = 4
"""Copies of a page: the current page, and the next one as received, decompressed in pieces, and joined."""
_FILE_BUFFER = MiB
_OBJECTS = 20
"""Factor by which attributes can be larger as Python objects than as JSON."""


class MemorySum(Struct, frozen=True):
    """Maximum bytes of memory, by purpose.

    Not included: a single image that needs more than `decode_config.memory_mb`, which is decoded alone; zstd and xz
    shards with large windows; file names, 60 to 100 bytes each. On a GPU, decoding uses GPU memory.
    """

    trainer: dict[str, int]
    """Memory of the process that iterates, without batches that the trainer itself keeps."""
    feeder: dict[str, int]
    downloading: dict[str, int]
    """Memory of each download process."""
    shared: dict[str, int]
    """Memory that all processes share."""
    processes: int = 0
    """Number of download processes."""
    decoding: dict[str, int] = {}
    """Memory of all decode processes together."""

    @classmethod
    def of(cls, config: LoaderConfig, backend: str) -> MemorySum:
        """Computes the sum for a config. backend: "pillow" or "dali"."""
        limits, processes = Limits.of(config), config.http_config.download_processes
        decoders = decode_processes(config.decode_config) if backend == "pillow" else 0
        sample = files_of_a_sample(config) * limits.payload
        on_the_way = {"the sample that comes next": sample, "a payload that is put together": limits.payload}
        ahead = {"prefetch_memory_mb": limits.ahead}
        return cls(
            trainer={
                "Python and the back end": _TRAINER[backend],
                **({} if decoders else _decoding(limits, pillow_threads(config.decode_config))),
                **({} if decoders else {"decoded batches": decoded_pixel_bytes(config)}),
                "attributes and latents of these batches": _described(config, limits),
            },
            decoding={"Python": _FORK_SERVER + decoders * _DECODING, **_decoding(limits, decoders)} if decoders else {},
            feeder={
                "Python": _FEEDER,
                **ahead,
                "bucket_memory_mb": limits.held,
                "decode_config.memory_mb": limits.decoding,
                **on_the_way,
                **_listings(config, sample),
            },
            downloading={"Python": _DOWNLOADING, **ahead, **on_the_way},
            shared={
                "arena_mb": limits.arena,
                "max_payload_mb": processes * limits.payload,
                **({"decoded batches": decoded_pixel_bytes(config)} if decoders else {}),
            },
            processes=processes,
        )

    @property
    def total(self) -> int:
        """Returns the bytes of all processes together."""
        downloading = self.processes * sum(self.downloading.values())
        parts = self.trainer, self.decoding, self.feeder, self.shared
        return downloading + sum(sum(part.values()) for part in parts)


def _decoding(limits: Limits, workers: int) -> dict[str, int]:
    """Returns the memory of threads or processes that decode."""
    return {
        "decode_config.memory_mb": limits.decoding,
        "heaps that decode": min(limits.decoding, KEPT * workers),
    }


def _described(config: LoaderConfig, limits: Limits) -> int:
    """Returns the bytes of attributes and latents of the batches that are decoded, queued, or used by the trainer."""
    latents = limits.batch if wants_latents(config) else 0
    return decoded_batches(config) * (latents + _OBJECTS * limits.words)


def _listings(config: LoaderConfig, sample: int) -> dict[str, int]:
    """Returns the memory of the listings of all sources: each source of a mix has its own buffers."""
    return {
        f"{purpose} of {name}" if name else purpose: size
        for name, each in config.by_source().items()
        for purpose, size in _listing(each, sample).items()
    }


def _listing(config: LoaderConfig, sample: int) -> dict[str, int]:
    source = config.source_config
    if isinstance(source, DataroomSource):
        found = {"pages of the listing": _PAGES * config.http_config.max_page_mb * MiB}
        return found | ({"shuffle_buffer": _SHUFFLED} if source.random_sampling else {})
    if isinstance(source, WebDatasetSource):
        most = source.buffer_mb * MiB
        found = {"buffer_mb": most, "the sample that is waited for": sample}
        found["shards that arrive"] = source.concurrent_downloads * _FILE_BUFFER
        return found | ({"shuffle_buffer": most} if source.random_sampling else {})
    if isinstance(source, TableSource):
        found = {"pyarrow, and rows that are read": _TABLES}
        return found | ({"shuffle_buffer": _SHUFFLED} if source.random_sampling else {})
    return {}
