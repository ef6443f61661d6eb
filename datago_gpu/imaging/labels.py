"""Masks of more than 8 bits on their way from the feeder to the decoder: numbers as they are, cut and scaled already.

No picture format holds all of them, and DALI would scale 16 bits to 8. A payload is a head of 16 bytes and the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["holds_labels", "pack_labels", "unpack_labels", "widest_dtype"]

_HEADS = {f"labels {dtype:8}\n".encode(): np.dtype(dtype) for dtype in ("uint16", "int32")}
_LENGTH = 16


def pack_labels(numbers: NDArray[Any]) -> bytes:
    """Make the payload of a mask: (H, W), uint16 or int32."""
    return f"labels {numbers.dtype.name:8}\n".encode() + numbers.tobytes()


def holds_labels(payload: NDArray[np.uint8]) -> bool:
    """Whether a payload comes from `pack_labels`."""
    return payload[:_LENGTH].tobytes() in _HEADS


def unpack_labels(payload: NDArray[np.uint8], height: int, width: int) -> NDArray[Any] | None:
    """The numbers (H, W, 1) of a payload, a view of it; None for any other payload."""
    dtype = _HEADS.get(payload[:_LENGTH].tobytes())
    return None if dtype is None else payload[_LENGTH:].view(dtype).reshape(height, width, 1)


def widest_dtype(payloads: Sequence[NDArray[np.uint8]]) -> np.dtype[Any]:
    """What holds the masks of all payloads: uint8, or uint16 or int32 where one of them needs that."""
    found = {_HEADS.get(payload[:_LENGTH].tobytes(), np.dtype(np.uint8)) for payload in payloads}
    return np.result_type(np.uint8, *found)
