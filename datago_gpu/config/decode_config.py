"""Settings: how encoded images become pixels."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from datago_gpu.config.settings import Count, Settings

__all__ = ["DecodeConfig"]


class DecodeConfig(Settings, frozen=True, kw_only=True):
    """How payloads become pixels.

    Attributes:
        threads: number of decoding threads. Default: this process's share of the CPUs, which is the number of CPUs that
            the process may use, divided by the processes of its machine (`LOCAL_WORLD_SIZE` of torchrun, or what Open
            MPI, MPICH or Slurm set); plus one with Pillow. On a GPU at most 16, and half as many for masks, because
            each thread takes 16 MiB of GPU memory and of pinned memory.
        processes: number of processes that decode with Pillow, outside the trainer's process. Default: `threads` if
            set, else this process's share of the CPUs. With 0, threads of the trainer's process decode: for places that
            allow no further processes. A training step of many small calls then takes up to three times as long.
        prefetch: number of batches that are decoded at the same time.
        max_pixels: images with more pixels, according to their header, are skipped.
        memory_mb: memory limit in MiB for decoding, for the feeder and for the trainer (or for all decode processes
            together) each. If images are large, fewer are decoded at the same time; an image that needs more is decoded
            alone. Default: 256 for each of `threads` or `processes`, else for each CPU of this process's share, and at
            least 1024. With DALI the limit applies to images, masks and additional images separately; on a GPU it
            limits GPU memory, and the default is 8192.
        hw_decoder_load: share of the JPEGs that the GPU's hardware decoder decodes, 0 to 1. 0.0 turns the hardware
            decoder off. Default: that of DALI.
        fancy_upsampling: true makes the GPU smooth 4:2:0 chroma as libjpeg does on the CPU, for equal pixels.
        draft: true lets Pillow decode JPEGs at 1/2, 1/4 or 1/8 of their size if they shrink at least as much. This is
            up to 3 times as fast, and slightly softer.
    """

    place: ClassVar[str] = "decode_config."
    threads: Count | None = None
    processes: Annotated[int, Meta(ge=0, le=1024)] | None = None
    prefetch: Count = 2
    max_pixels: Count = 100_000_000
    memory_mb: Count | None = None
    hw_decoder_load: Annotated[float, Meta(ge=0, le=1)] | None = None
    fancy_upsampling: bool = True
    draft: bool = True
