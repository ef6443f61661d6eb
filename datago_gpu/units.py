"""Units of the settings."""

from __future__ import annotations

__all__ = ["MiB"]

MiB = 1024 * 1024
"""Bytes."""
