"""Gives arrays of bfloat16 their type. numpy, cupy and DALI do not have this type.

Decoders compute the bits of bfloat16 as uint16: see output_format.py. When a batch is complete, `as_bfloat16` makes
arrays that torch and jax take as bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datago_gpu.decoders.device import DeviceArray
from datago_gpu.decoders.dlpack import mark_bfloat16

__all__ = ["Bfloat16Array", "as_bfloat16"]


class Bfloat16Array(np.ndarray):
    """An array of numpy with the dtype bfloat16 of ml_dtypes, as jax has it. `from_dlpack` of torch and jax takes it.

    numpy itself exports no bfloat16. `astype(np.float32)` converts the numbers, without loss.
    """

    def __dlpack__(self, **options: Any) -> Any:
        plain = np.asarray(self)
        if plain.dtype.name != "bfloat16":  # the result of a computation
            return plain.__dlpack__(**options)
        return mark_bfloat16(plain.view(np.uint16).__dlpack__(**options))


def as_bfloat16(image: Any) -> Any:
    """Returns images whose numbers are bits of bfloat16, or a list of them, with the right type. Nothing is copied."""
    if image is None:
        return None
    if isinstance(image, list):
        return [as_bfloat16(each) for each in image]
    if isinstance(image, DeviceArray):
        return image.as_bfloat16()
    from ml_dtypes import bfloat16  # for this dtype only

    return image.view(bfloat16).view(Bfloat16Array)
