"""Computes the bounds that several parts of the program share, once, from the settings.

A part that checks a bound and a part that relies on the bound both read it from the same `Limits`.
"""

from __future__ import annotations

from msgspec import Struct

from datago_gpu.config.dataroom import DataroomSource
from datago_gpu.config.decode_config import DecodeConfig
from datago_gpu.config.loader_config import LoaderConfig
from datago_gpu.config.mix import MixSource
from datago_gpu.config.ranks import cpu_share
from datago_gpu.config.settings import names_in
from datago_gpu.config.shards import WebDatasetSource
from datago_gpu.config.table import TableSource
from datago_gpu.system import has_memfd
from datago_gpu.units import MiB

__all__ = [
    "Limits",
    "bytes_a_pixel",
    "decode_processes",
    "decoded_batches",
    "decoded_pixel_bytes",
    "decoding_memory",
    "files_of_a_sample",
    "view_pixels",
    "waiting_batches",
    "wants_latents",
    "widest_pixel",
]

_FOUR_CHANNELS_OF_16_BITS, _LABEL = 8, 4
"""Bytes per pixel. A label has up to 32 bits."""

_LEAST_DECODING_MB, _DECODING_MB_A_THREAD = 1024, 256

_LEAST_WORDS, _WORDS_A_SAMPLE = 4 * MiB, 32 * 1024

_FURTHER_BATCHES = 2
"""The batch that the trainer uses, and the batch that is being delivered."""

_BATCHES_BETWEEN = 2
"""Batches on their way to the decoder, so that the decoder never waits for them."""


def decoding_memory(decode: DecodeConfig) -> int:
    """Returns the memory for decoding, in bytes: see `DecodeConfig.memory_mb`."""
    if decode.memory_mb is not None:
        return decode.memory_mb * MiB
    workers = decode.threads or decode.processes or cpu_share()
    return max(_LEAST_DECODING_MB, _DECODING_MB_A_THREAD * workers) * MiB


def decode_processes(decode: DecodeConfig) -> int:
    """Returns the number of processes that decode with Pillow, 0 for threads: see `DecodeConfig.processes`."""
    if decode.processes is not None:
        return decode.processes
    return decode.threads or cpu_share() if has_memfd() else 0


def files_of_a_sample(config: LoaderConfig) -> int:
    """Returns how many payloads a sample may have: its image, and the requested masks, images and latents.

    Of a mix: how many the samples of a batch may have together, which may be of different sources.
    """
    source = config.source_config
    if isinstance(source, MixSource):
        return max(1 + len(source.parts), *map(files_of_a_sample, config.by_source().values()))
    if isinstance(source, WebDatasetSource | TableSource):
        return 1 + len(source.parts)
    if isinstance(source, DataroomSource):
        wanted = source.has_masks, source.has_latents, source.optional_masks, source.optional_latents
        return 1 + len(names_in(*wanted))
    return 1


def wants_latents(config: LoaderConfig) -> bool:
    """Returns whether a sample may have latents, which keep their saved size."""
    source = config.source_config
    if isinstance(source, MixSource):
        return any(map(wants_latents, config.by_source().values()))
    if isinstance(source, WebDatasetSource | TableSource):
        return "latent" in source.parts.values()
    return isinstance(source, DataroomSource) and bool(names_in(source.has_latents, source.optional_latents))


def widest_pixel(config: LoaderConfig) -> int:
    """Returns the bytes of the widest pixel that may come: rows of the program's own may have masks of labels."""
    return max(bytes_a_pixel(config), _LABEL) if config.takes_rows else bytes_a_pixel(config)


def bytes_a_pixel(config: LoaderConfig) -> int:
    """Returns the bytes of the widest pixel that the settings can deliver."""
    image = config.image_config
    if not image.image_to_rgb8:
        return _FOUR_CHANNELS_OF_16_BITS
    pixel = 3 * {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4}[image.dtype]
    return max(pixel, _LABEL) if files_of_a_sample(config) > 1 else pixel


def waiting_batches(config: LoaderConfig) -> int:
    """Returns how many decoded batches may wait for the trainer."""
    return -(-config.samples_buffer_size // config.most_samples)


def decoded_batches(config: LoaderConfig) -> int:
    """Returns how many batches may be in the decoder, in the queue, handed over, or with the trainer."""
    return waiting_batches(config) + config.decode_config.prefetch + _FURTHER_BATCHES


def decoded_pixel_bytes(config: LoaderConfig) -> int:
    """Returns the bytes of pixels in these batches."""
    if not config.image_config.crop_and_resize:
        return 2 * config.samples_buffer_mb * MiB
    pixels = view_pixels(config) + (files_of_a_sample(config) - 1) * config.most_batch_pixels
    return decoded_batches(config) * pixels * bytes_a_pixel(config)


def view_pixels(config: LoaderConfig) -> int:
    """Returns the pixels of all views in the batch that has the most. Only with `crop_and_resize`."""
    image, most = config.image_config, 0
    for bucket in config.bucket_choice().sizes:
        views = (image.view_bucket(view, bucket) for view in range(image.view_count))
        most = max(most, config.samples_of(bucket) * sum(height * width for height, width in views))
    return most


class Limits(Struct, frozen=True, kw_only=True):
    """All sizes are in bytes."""

    payload: int
    """One payload as it is downloaded or read."""
    picture: int
    """The pixels of one picture that the feeder decodes itself."""
    sample: int
    """All payloads of one sample, as they lie in the arena. A batch may consist of one such sample."""
    batch: int
    """A batch of two or more samples: half of the arena, so that one batch is decoded while another is written."""
    words: int
    """Attributes, as JSON, and tags of such a batch. As Python objects, attributes may take 20 times as much."""
    arena: int
    """The memory that the feeder and the trainer share."""
    held: int
    """The samples in batches that are not full yet."""
    ahead: int
    """The samples that are fetched ahead of the grouping."""
    samples_ahead: int
    """How many samples may be fetched ahead of the grouping."""
    batches_under_way: int
    """How many batches may have been sent to the trainer and not been decoded yet."""

    decoding: int
    """The memory that pictures take while they are decoded, in one process."""

    pixels: int
    """If images keep their sizes: the most pixels in decoded samples that wait for the trainer. One batch may always
    wait; it has no more pixels than this, or one sample."""

    @classmethod
    def of(cls, config: LoaderConfig) -> Limits:
        """Computes the bounds for these settings."""
        arena = config.arena_mb * MiB
        return cls(
            payload=config.http_config.max_payload_mb * MiB,
            picture=arena // 2,
            sample=arena,
            batch=arena // 2,
            words=max(_LEAST_WORDS, _WORDS_A_SAMPLE * config.most_samples),
            arena=arena,
            held=config.bucket_memory_mb * MiB,
            ahead=config.prefetch_memory_mb * MiB,
            samples_ahead=config.prefetch_buffer_size,
            batches_under_way=config.decode_config.prefetch + _BATCHES_BETWEEN,
            decoding=decoding_memory(config.decode_config),
            pixels=config.samples_buffer_mb * MiB // bytes_a_pixel(config),
        )
