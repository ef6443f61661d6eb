"""Chooses the decoder once, before anything starts, and keeps the reason.

Looks at the driver (libcuda, through ctypes) and at what is installed, without importing DALI or cupy: that takes 0.4 s
and more, and is left to `load_decoder`.
"""

from __future__ import annotations

import ctypes
import operator
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decode.allowance import Allowance
from datago_gpu.decode.base import Decoder
from datago_gpu.decode.labels import holds_labels
from datago_gpu.decode.place import GpuPlacer, HostPlacer, Placer
from datago_gpu.errors import ConfigError
from datago_gpu.limits import decoding_memory

__all__ = ["Backend", "choose", "gpus", "load_decoder", "make_decoder", "make_placer"]

_GPU_DECODING_BYTES = 8 * 1024**3
"""Of its own memory, what DALI may take on a GPU for the pixels of whole images, where no setting says otherwise."""
_INSTALL = "pip install 'datago_gpu[cuda12]' (or [cuda13] for CUDA 13)"


@dataclass(frozen=True, slots=True)
class Backend:
    """What decodes, where, and why."""

    name: Literal["dali", "pillow"]
    device: str
    """"cpu", or "cuda:" and the index of the GPU."""
    device_id: int | None = None
    """The index of the GPU; None for the CPU."""
    reason: str = ""


def choose(device: object = "auto", backend: str | None = "auto") -> Backend:
    """Decide what decodes.

    device: "auto", "cuda", "cuda:INDEX" or "cpu"; also the INDEX alone, a torch.device, or None for "auto". "auto" and
    "cuda" take the GPU that LOCAL_RANK names, else the first.
    backend: "auto" (also None), "dali" or "pillow". "auto" is DALI on a GPU and Pillow on the CPU.
    Raises ConfigError where that cannot work, saying what is missing and how to get it.
    """
    device, backend = _named(device), backend or "auto"
    if backend not in ("auto", "dali", "pillow"):
        raise ConfigError(f"backend must be 'auto', 'dali' or 'pillow', got {backend!r}")
    if backend == "pillow":
        if device.startswith("cuda"):
            raise ConfigError(f"backend 'pillow' decodes on the CPU only, got device {device!r}: use backend 'dali'")
        return Backend("pillow", "cpu", reason="backend='pillow' was asked for")
    if device == "cpu":
        return _on_cpu(backend, "device='cpu' was asked for")
    return _on_gpu(device, backend)


def _named(device: object) -> str:
    """The device as text. Raises ConfigError where that is none of ours."""
    if device is None:
        return "auto"
    is_number = isinstance(device, SupportsIndex) and not isinstance(device, bool)
    name = f"cuda:{operator.index(device)}" if is_number else str(device)  # type: ignore[arg-type]
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:INDEX' or INDEX, got {device!r}")
    return name


def load_decoder(backend: Backend) -> None:
    """Import what the decoder chosen needs. Raises ConfigError where that fails."""
    if backend.name == "pillow":
        import datago_gpu.decode.pillow

        return
    try:
        import datago_gpu.decode.dali  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"DALI is installed but cannot be imported ({error}): {_INSTALL}") from error


def make_decoder(
    backend: Backend,
    image: ImageConfig,
    decode: DecodeConfig,
    batch_size: int,
    *,
    mask: bool = False,
    memory: Allowance | None = None,
) -> Decoder:
    """Make the decoder chosen, for images or for masks. Call it on the thread that uses it.

    batch_size: the most images a batch may hold. memory: what several decoders share.
    """
    load_decoder(backend)
    mask_filter = image.mask_interpolation if mask else ""
    own = not image.image_to_rgb8 and mask_filter != "nearest"
    if backend.name == "pillow" or (mask and image.pre_encode_images):
        return _pillow(image, decode, mask_filter, own, memory)
    decoder = _dali(backend, image, decode, batch_size, "" if own else mask_filter)
    if not own and mask_filter != "nearest":
        return decoder
    from datago_gpu.decode.split import SplitDecoder

    is_first = _is_rgb8(decode.max_pixels) if own else _is_shallow
    return SplitDecoder(
        decoder, lambda: _pillow(image, decode, mask_filter, own, memory), make_placer(backend), is_first
    )


def _is_rgb8(max_pixels: int) -> Callable[[NDArray[np.uint8]], bool]:
    from datago_gpu.decode.native import is_rgb8

    return lambda payload: is_rgb8(payload.data, max_pixels)


def _is_shallow(payload: NDArray[np.uint8]) -> bool:
    return not holds_labels(payload)


def _pillow(image: ImageConfig, decode: DecodeConfig, mask: str, own: bool, memory: Allowance | None) -> Decoder:
    from datago_gpu.decode.pillow import PillowDecoder

    return PillowDecoder(image, decode, mask=mask, own=own, memory=memory)


def _dali(backend: Backend, image: ImageConfig, decode: DecodeConfig, batch_size: int, mask: str) -> Decoder:
    from datago_gpu.decode.dali import DaliDecoder
    from datago_gpu.decode.portions import PortionedDecoder
    from datago_gpu.decode.threads import decoding_threads

    dali = DaliDecoder(image, decode, batch_size=batch_size, device_id=backend.device_id, mask=mask)
    on_gpu = backend.device_id is not None and decode.memory_mb is None
    memory = _GPU_DECODING_BYTES if on_gpu else decoding_memory(decode)
    decoder = PortionedDecoder(dali, memory, decoding_threads(decode), lambda: make_placer(backend))
    if not image.pre_encode_images:
        return decoder
    from datago_gpu.decode.nvencode import EncodingDecoder

    return EncodingDecoder(decoder, image, decode, backend.device_id)


def make_placer(backend: Backend) -> Placer:
    """What brings other arrays to the device. Call it on the thread that uses it."""
    return HostPlacer() if backend.device_id is None else GpuPlacer(backend.device_id)


def _on_cpu(backend: str, why: str) -> Backend:
    if backend == "auto":
        return Backend("pillow", "cpu", reason=why)
    if not _installed("nvidia.dali"):
        raise ConfigError(f"backend 'dali' needs DALI, which is not installed: {_INSTALL}")
    return Backend("dali", "cpu", reason=f"{why}; backend='dali' was asked for")


def _on_gpu(device: str, backend: str) -> Backend:
    count, missing = gpus()
    remedy = "check that nvidia-smi lists a GPU here, or use device='auto'"
    absent = [name for name in ("nvidia.dali", "cupy") if not _installed(name)]
    if not missing and absent:
        missing, remedy = f"{' and '.join(absent)} not installed", _INSTALL
    if missing and device == "auto":
        return _on_cpu(backend, missing)
    if missing:
        raise ConfigError(f"device {device!r} cannot be used: {missing}; {remedy}")
    index, reason = _index(device, count)
    return Backend("dali", f"cuda:{index}", index, reason)


def _index(device: str, count: int) -> tuple[int, str]:
    """Which of `count` GPUs, and why."""
    _, _, wanted = device.partition(":")
    if wanted:
        if int(wanted) >= count:
            raise ConfigError(f"device {device!r} does not exist: there are {count} GPUs, counted from 0")
        return int(wanted), f"device={device!r} was asked for"
    local_rank = os.environ.get("LOCAL_RANK", "")
    if local_rank.isdecimal():
        return int(local_rank) % count, f"LOCAL_RANK is {local_rank} and there are {count} GPUs"
    return 0, f"the first of {count} GPUs"


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def gpus() -> tuple[int, str]:
    """How many GPUs the driver offers, and if none, why."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no CUDA driver (libcuda.so.1 not found)"
    status = driver.cuInit(0)
    if status:
        return 0, f"no usable GPU (the CUDA driver's cuInit returned {status})"
    count = ctypes.c_int()
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return 0, f"no GPU (the CUDA driver counts {count.value}, status {status})"
    return count.value, ""
