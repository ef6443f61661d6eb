"""Checks single payloads with nvImageCodec, DALI's decoder: DALI itself only accepts or refuses whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from nvidia import nvimgcodec

__all__ = ["find_undecodable", "header_problem"]


def header_problem(payload: bytes | NDArray[np.uint8], high: int, wide: int) -> str | None:
    """Returns why DALI's reader would refuse a header, or None. Takes 3 us.

    A refused header must not reach DALI: DALI 2.4.0 fails the iteration, and after a few failures in large batches the
    process dies of a segmentation fault.
    high, wide: the size that the feeder found, as displayed.
    """
    try:
        stream = nvimgcodec.CodeStream(payload)
        height, width = stream.height, stream.width  # CodeStream reads the header only when asked for the size
    except Exception as error:  # nvImageCodec may raise any type
        return " ".join(str(error).split()) or type(error).__name__
    # With two contradicting headers, the feeder may read one and DALI the other, which max_pixels does not limit.
    return None if (height, width) in ((high, wide), (wide, high)) else f"DALI reads the size {height} x {width}"


def find_undecodable(payloads: Sequence[NDArray[np.uint8]], threads: int) -> list[int]:
    """Returns the indices of the payloads, all with good headers, that cannot be decoded. Decodes all on the CPU.

    On a GPU, nvImageCodec tries its CPU decoder last, so an image that all GPU decoders refuse is refused here as well.
    Each call makes a decoder, which takes a millisecond: it is needed for bad batches only, and a kept decoder would
    hold threads and memory.
    """
    decoder = nvimgcodec.Decoder(
        device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=max(1, threads - 1),  # it warns if there are more than CPUs - 1
        backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],  # otherwise it needs a GPU
    )
    decoded = decoder.decode([nvimgcodec.CodeStream(payload) for payload in payloads])
    return [index for index, image in enumerate(decoded) if image is None]
