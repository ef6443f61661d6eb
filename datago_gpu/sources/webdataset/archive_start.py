"""Recognises an archive by its first bytes."""

from __future__ import annotations

__all__ = ["is_archive_start"]

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")


def is_archive_start(head: bytes) -> bool:
    """Returns whether these first bytes, 512 or more, are those of a tar archive, compressed or not."""
    return head.startswith(_COMPRESSED) or head[257:262] == b"ustar"
