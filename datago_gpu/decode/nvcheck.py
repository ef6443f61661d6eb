"""What nvImageCodec, which decodes within DALI, says of single payloads: DALI itself judges whole batches only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from nvidia import nvimgcodec

__all__ = ["header_problem", "undecodable"]


def header_problem(payload: bytes | NDArray[np.uint8], high: int, wide: int) -> str | None:
    """What DALI's own reader says against a header, in 3 us. It must not get to read such a one itself: DALI 2.4.0
    fails the iteration, and after a few of them in large batches the process dies of a segmentation fault.

    high, wide: the size that the feeder found, as displayed.
    """
    try:
        stream = nvimgcodec.CodeStream(payload)
        height, width = stream.height, stream.width  # without the questions it reads nothing
    except Exception as error:  # of any kind DALI's makers chose
        return " ".join(str(error).split()) or type(error).__name__
    # Of two contradicting headers the feeder may have read one and DALI the other, which is not bounded by max_pixels.
    return None if (height, width) in ((high, wide), (wide, high)) else f"{height} x {width} to DALI"


def undecodable(payloads: Sequence[NDArray[np.uint8]], threads: int) -> list[int]:
    """Which of some payloads with good headers cannot be decoded, by their indices. Decodes them all, on the CPU.

    An image that all of a GPU's decoders refuse is refused by the CPU's as well: it is the last one that they try. A
    decoder is made each time, which takes a millisecond: it is needed for bad batches only, and would keep threads and
    memory in between.
    """
    decoder = nvimgcodec.Decoder(
        device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=max(1, threads - 1),  # it warns of more than one fewer than there are CPUs
        backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],  # else it asks for a GPU
    )
    decoded = decoder.decode([nvimgcodec.CodeStream(payload) for payload in payloads])
    return [index for index, image in enumerate(decoded) if image is None]
