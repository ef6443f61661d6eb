"""The memory that decompressors of zstd and xz ask for: by a few bytes a shard can ask for 128 MiB."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

from datago_gpu.sources.webdataset.budget import GivenUp

__all__ = ["MOST_WINDOW", "SMALL_WINDOW", "Windows", "xz_window", "zstd_window"]

MOST_WINDOW = 128 * 1024 * 1024
"""Bytes that one may ask for; zstd's command line allows the same."""
SMALL_WINDOW = 8 * 1024 * 1024
"""Bytes that are not counted. What the tools ask for by themselves is no more."""

_SKIPPED = b"\x2a\x4d\x18"
_XZ_BLOCK_AT = 12
_LZMA2 = 0x21
_XZ_SIZES = 0b11000000
"""Flags of an xz block that begins with its sizes, which the tools write for several threads."""


class Windows:
    """Bytes that the decompressors of several shards share. Those whose turn it is have what they ask for in any case.

    Shards are told apart by their number. The lowest that waits is served first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._held = capacity, 0
        self._due = 0
        self._changed = Condition()
        self._waiting: set[int] = set()

    def take(self, number: int, size: int, is_gone: Callable[[], bool]) -> None:
        """Wait, in a thread, for so many bytes. Raises GivenUp where nobody wants the shard any more: see `wake`."""
        with self._changed:
            self._waiting.add(number)
            self._changed.wait_for(lambda: is_gone() or self._may(number, size))
            self._waiting.discard(number)
            if is_gone():
                raise GivenUp
            self._held += size
            self._changed.notify_all()

    def give_back(self, size: int) -> None:
        """Count them no longer."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def let(self, due: int) -> None:
        """The turn of all shards below this number has come."""
        with self._changed:
            self._due = due
            self._changed.notify_all()

    def wake(self) -> None:
        """Have those that wait see whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def _may(self, number: int, size: int) -> bool:
        if number < self._due:
            return True
        return number == min(self._waiting) and (not self._held or self._held + size <= self._capacity)


def zstd_window(head: bytes) -> int:
    """The window of the first frame of a zstd file, by the file's first bytes; MOST_WINDOW where they do not tell."""
    import zstandard

    at = 0
    while head[at + 1 : at + 4] == _SKIPPED:
        at += 8 + int.from_bytes(head[at + 4 : at + 8], "little")
    try:
        return int(zstandard.get_frame_parameters(head[at : at + 18]).window_size)
    except zstandard.ZstdError:
        return MOST_WINDOW


def xz_window(head: bytes) -> int:
    """The dictionary of the first block of an xz file, as `zstd_window`: xz file format, sections 3.1 and 5.3.1."""
    at = _XZ_BLOCK_AT + 2
    if len(head) < _XZ_BLOCK_AT + 2 or head[_XZ_BLOCK_AT + 1] & ~_XZ_SIZES:
        return MOST_WINDOW  # further filters, or none of this version
    for _ in range(head[_XZ_BLOCK_AT + 1].bit_count()):
        while head[at : at + 1] >= b"\x80":
            at += 1
        at += 1
    if head[at : at + 2] != bytes((_LZMA2, 1)) or len(head) < at + 3:
        return MOST_WINDOW
    bits = head[at + 2]
    return min(MOST_WINDOW, (2 | bits & 1) << (bits // 2 + 11)) if bits < 40 else MOST_WINDOW
