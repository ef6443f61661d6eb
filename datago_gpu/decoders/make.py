"""Makes the decoder that `decode.select` has chosen, and imports its libraries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.config.limits import decoding_memory
from datago_gpu.decoders.decoder import Decoder
from datago_gpu.decoders.output_format import kind_of
from datago_gpu.decoders.placement import GpuPlacer, HostPlacer, Placer
from datago_gpu.decoders.select import INSTALL, Backend
from datago_gpu.errors import ConfigError
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.imaging.labels import holds_labels

__all__ = ["load_decoder", "make_decoder", "make_placer"]

_GPU_DECODING_BYTES = 8 * 1024**3
"""GPU memory that DALI may use for the pixels of whole images, if no setting limits it."""


def load_decoder(backend: Backend) -> None:
    """Imports the libraries of the chosen decoder. Raises ConfigError if that fails."""
    if backend.name == "pillow":
        import datago_gpu.decoders.pillow

        return
    try:
        import datago_gpu.decoders.dali  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"DALI is installed but cannot be imported ({error}): {INSTALL}") from error


def make_decoder(
    backend: Backend,
    image: ImageConfig,
    decode: DecodeConfig,
    batch_size: int,
    *,
    mask: bool = False,
    memory: Allowance | None = None,
) -> Decoder:
    """Makes the chosen decoder, for images or for masks. Call this on the thread that uses the decoder.

    batch_size: the maximum number of images in a batch. memory: the memory limit that several decoders share.
    """
    load_decoder(backend)
    mask_filter, own = kind_of(image, mask=mask)
    if backend.name == "pillow" or (mask and image.pre_encode_images):
        return _pillow(image, decode, mask_filter, own, memory)
    decoder = _dali(backend, image, decode, batch_size, "" if own else mask_filter)
    if not own and mask_filter != "nearest":
        return decoder
    from datago_gpu.decoders.mixed_channels import SplitDecoder

    is_first = _is_rgb8(decode.max_pixels) if own else _is_shallow
    return SplitDecoder(
        decoder, lambda: _pillow(image, decode, mask_filter, own, memory), make_placer(backend), is_first
    )


def _is_rgb8(max_pixels: int) -> Callable[[NDArray[np.uint8]], bool]:
    from datago_gpu.imaging.own_channels import is_rgb8

    return lambda payload: is_rgb8(payload.data, max_pixels)


def _is_shallow(payload: NDArray[np.uint8]) -> bool:
    return not holds_labels(payload)


def _pillow(image: ImageConfig, decode: DecodeConfig, mask: str, own: bool, memory: Allowance | None) -> Decoder:
    from datago_gpu.decoders.pillow import PillowDecoder

    return PillowDecoder(image, decode, mask=mask, own=own, memory=memory)


def _dali(backend: Backend, image: ImageConfig, decode: DecodeConfig, batch_size: int, mask: str) -> Decoder:
    from datago_gpu.decoders.dali import DaliDecoder
    from datago_gpu.decoders.portions import PortionedDecoder
    from datago_gpu.decoders.threads import decoding_threads

    dali = DaliDecoder(image, decode, batch_size=batch_size, device_id=backend.device_id, mask=mask)
    on_gpu = backend.device_id is not None and decode.memory_mb is None
    memory = _GPU_DECODING_BYTES if on_gpu else decoding_memory(decode)
    decoder = PortionedDecoder(dali, memory, decoding_threads(decode), lambda: make_placer(backend))
    if not image.pre_encode_images:
        return decoder
    from datago_gpu.decoders.nvencode import EncodingDecoder

    return EncodingDecoder(decoder, image, decode, backend.device_id)


def make_placer(backend: Backend) -> Placer:
    """Makes the placer, which copies other arrays to the device. Call this on the thread that uses the placer."""
    return HostPlacer() if backend.device_id is None else GpuPlacer(backend.device_id)
