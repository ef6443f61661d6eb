"""Limits the memory of zstd and xz decompressors: with a few bytes, a shard can make one allocate 128 MiB."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

from datago_gpu.sources.webdataset.budget import GivenUp

__all__ = ["MOST_WINDOW", "SMALL_WINDOW", "Windows", "xz_window", "zstd_window"]

MOST_WINDOW = 128 * 1024 * 1024
"""The largest allowed window, in bytes; zstd's command line has the same limit."""
SMALL_WINDOW = 8 * 1024 * 1024
"""Windows up to this size, in bytes, are not counted. The tools' default windows are no larger."""

_SKIPPED = b"\x2a\x4d\x18"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ONE_SEGMENT = 0b100000
"""Flag of a zstd frame whose window is its content."""
_LONGEST_ZSTD_HEADER = 18
_XZ_BLOCK_AT = 12
_LZMA2 = 0x21
_XZ_SIZES = 0b11000000
"""Flags of an xz block that begins with its sizes, as the tools write it for several threads."""


class Windows:
    """Shares bytes among the decompressors of several shards. Shards whose turn it is always get what they ask for.

    Shards are identified by their number. The lowest waiting number is served first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._held = capacity, 0
        self._due = 0
        self._changed = Condition()
        self._waiting: set[int] = set()

    def take(self, number: int, size: int, is_gone: Callable[[], bool]) -> None:
        """Waits, in a thread, for `size` bytes. Raises GivenUp if the shard is no longer wanted: see `wake`."""
        with self._changed:
            self._waiting.add(number)
            self._changed.wait_for(lambda: is_gone() or self._may(number, size))
            self._waiting.discard(number)
            if is_gone():
                raise GivenUp
            self._held += size
            self._changed.notify_all()

    def give_back(self, size: int) -> None:
        """Stops counting `size` bytes."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def let(self, due: int) -> None:
        """Records that the turn of all shards below this number has come."""
        with self._changed:
            self._due = due
            self._changed.notify_all()

    def wake(self) -> None:
        """Makes waiting threads check whether their shards are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def _may(self, number: int, size: int) -> bool:
        if number < self._due:
            return True
        return number == min(self._waiting) and (not self._held or self._held + size <= self._capacity)


def zstd_window(head: bytes) -> int:
    """Returns the window of the first frame of a zstd file, from the file's first bytes; MOST_WINDOW if unknown.

    The format is in RFC 8878, section 3.1.1.1.
    """
    at = 0
    while head[at + 1 : at + 4] == _SKIPPED:
        at += 8 + int.from_bytes(head[at + 4 : at + 8], "little")
    frame = head[at:]
    if len(frame) < _LONGEST_ZSTD_HEADER or not frame.startswith(_ZSTD):
        return MOST_WINDOW
    flags = frame[4]
    if not flags & _ONE_SEGMENT:
        exponent, eighths = frame[5] >> 3, frame[5] & 0b111
        return (8 + eighths) << (exponent + 7)
    begin = 5 + (0, 1, 2, 4)[flags & 0b11]  # after the number of the dictionary
    length = (1, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(frame[begin : begin + length], "little")
    return size + 256 if length == 2 else size


def xz_window(head: bytes) -> int:
    """Returns the dictionary size of an xz file's first block, as `zstd_window`: xz file format, sections 3.1 and
    5.3.1."""
    at = _XZ_BLOCK_AT + 2
    if len(head) < _XZ_BLOCK_AT + 2 or head[_XZ_BLOCK_AT + 1] & ~_XZ_SIZES:
        return MOST_WINDOW  # more filters, or an unknown one
    for _ in range(head[_XZ_BLOCK_AT + 1].bit_count()):
        while head[at : at + 1] >= b"\x80":
            at += 1
        at += 1
    if head[at : at + 2] != bytes((_LZMA2, 1)) or len(head) < at + 3:
        return MOST_WINDOW
    bits = head[at + 2]
    return min(MOST_WINDOW, (2 | bits & 1) << (bits // 2 + 11)) if bits < 40 else MOST_WINDOW
