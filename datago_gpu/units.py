"""Units of the settings, and of memory."""

from __future__ import annotations

__all__ = ["ALIGNMENT", "MiB", "aligned"]

MiB = 1024 * 1024
"""Bytes."""
ALIGNMENT = 64
"""Bytes. Payloads in shared memory, and the arrays of a batch, begin at a multiple of this number. JAX would copy them
otherwise."""


def aligned(size: int) -> int:
    """Returns the size, rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT
