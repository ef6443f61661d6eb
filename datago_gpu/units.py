"""Units of the settings, and of memory."""

from __future__ import annotations

__all__ = ["ALIGNMENT", "MiB"]

MiB = 1024 * 1024
"""Bytes."""
ALIGNMENT = 64
"""Bytes. Payloads in shared memory, and the arrays of a batch, begin at a multiple of this number. JAX would copy them
otherwise."""
