"""The bounds that several parts of the program share. All are computed here, once, from the settings.

A part that checks a bound and a part that relies on the bound both read it from the same `Limits`.
"""

from __future__ import annotations

import os

from msgspec import Struct

from datago_gpu.config import DecodeConfig, ImageConfig, LoaderConfig, MiB

__all__ = ["Limits", "decoding_memory"]

_LEAST_DECODING_MB, _DECODING_MB_A_THREAD = 1024, 256

_BATCHES_BETWEEN = 2
"""Batches on their way to the decoder, so that the decoder never waits for them."""


def decoding_memory(decode: DecodeConfig) -> int:
    """Bytes: see `DecodeConfig.memory_mb`."""
    if decode.memory_mb is not None:
        return decode.memory_mb * MiB
    return max(_LEAST_DECODING_MB, _DECODING_MB_A_THREAD * (decode.threads or len(os.sched_getaffinity(0)))) * MiB


def _bytes_a_pixel(image: ImageConfig) -> int:
    if not image.image_to_rgb8:
        return 4
    return 3 * {"uint8": 1, "float16": 2, "float32": 4}[image.dtype]


class Limits(Struct, frozen=True, kw_only=True):
    """All sizes are in bytes."""

    payload: int
    """Of one payload as it is downloaded or read."""
    picture: int
    """Of the pixels of one picture that the feeder decodes itself."""
    sample: int
    """Of all payloads of one sample together, as they lie in the arena. A batch may consist of one such sample."""
    batch: int
    """Of a batch of two samples and more: half of the arena, so that one batch is decoded while another is written."""
    arena: int
    """Of the memory that the feeder and the trainer share."""
    held: int
    """Of the samples in batches that are not full yet."""
    ahead: int
    """Of the samples that are fetched ahead of the grouping."""
    samples_ahead: int
    """How many samples may be fetched ahead of the grouping."""
    batches_under_way: int
    """How many batches may have been sent to the trainer and not been decoded yet."""

    decoding: int
    """Of what pictures take while they are decoded, in one process."""

    pixels: int
    """How many pixels the decoded samples may have that wait for the trainer, where images keep their sizes. One batch
    may wait in any case, which has no more, or one sample."""

    @classmethod
    def of(cls, config: LoaderConfig) -> Limits:
        """The bounds that these settings mean."""
        arena = config.arena_mb * MiB
        return cls(
            payload=config.http_config.max_payload_mb * MiB,
            picture=arena // 2,
            sample=arena,
            batch=arena // 2,
            arena=arena,
            held=config.bucket_memory_mb * MiB,
            ahead=config.prefetch_memory_mb * MiB,
            samples_ahead=config.prefetch_buffer_size,
            batches_under_way=config.decode_config.prefetch + _BATCHES_BETWEEN,
            decoding=decoding_memory(config.decode_config),
            pixels=config.samples_buffer_mb * MiB // _bytes_a_pixel(config.image_config),
        )
