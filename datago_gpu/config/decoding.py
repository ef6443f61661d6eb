"""Settings: how encoded images become pixels."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from datago_gpu.config.base import Count, Settings

__all__ = ["DecodeConfig"]


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
