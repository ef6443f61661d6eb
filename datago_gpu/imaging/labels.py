"""The payload format of masks with more than 8 bits, from the feeder to the decoder: numbers, cropped and scaled.

No image format holds all of these masks, and DALI would scale 16 bits to 8. A payload is a header of 16 bytes, then the
pixels.
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
    """Makes the payload of a mask (H, W), uint16 or int32."""
    return f"labels {numbers.dtype.name:8}\n".encode() + numbers.tobytes()


def holds_labels(payload: NDArray[np.uint8]) -> bool:
    """Returns whether a payload was made by `pack_labels`."""
    return payload[:_LENGTH].tobytes() in _HEADS


def unpack_labels(payload: NDArray[np.uint8], height: int, width: int) -> NDArray[Any] | None:
    """Returns the numbers (H, W, 1) of a payload as a view; None for any other payload."""
    dtype = _HEADS.get(payload[:_LENGTH].tobytes())
    return None if dtype is None else payload[_LENGTH:].view(dtype).reshape(height, width, 1)


def widest_dtype(payloads: Sequence[NDArray[np.uint8]]) -> np.dtype[Any]:
    """Returns the dtype that holds the masks of all payloads: uint8, or uint16 or int32 if one of them needs it."""
    found = {_HEADS.get(payload[:_LENGTH].tobytes(), np.dtype(np.uint8)) for payload in payloads}
    return np.result_type(np.uint8, *found)
