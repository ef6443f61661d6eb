"""What an array of a batch can do on every device, for editors and type checkers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Array"]


@runtime_checkable
class Array(Protocol):
    """Pixels or numbers on the loader's device: a `numpy.ndarray` on the CPU, a `DeviceArray` on a GPU.

    Give it to `torch.from_dlpack`, `cupy.from_dlpack`, `jax.dlpack.from_dlpack` or `numpy.from_dlpack`: they share its
    memory. On a GPU it has `__cuda_array_interface__`, too.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions, such as (N, H, W, 3)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements, such as uint8."""
        ...

    def __len__(self) -> int:
        """Length of the first dimension."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """A view of one row (int) or of some rows (slice). numpy arrays take other indices, too."""
        ...

    def __dlpack__(self, *, stream: Any = None) -> Any:
        """A DLPack capsule. Called by the `from_dlpack` of a framework."""
        ...

    def __dlpack_device__(self) -> tuple[Any, int]:
        """(1, 0) on the CPU, (2, number of the GPU) on a GPU."""
        ...
