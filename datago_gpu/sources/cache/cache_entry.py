"""The file of one entry of the cache: a head, the checksums of the blocks, and then the payload.

The head has a checksum of its own, which covers the name and the length. So a file that was cut, changed, or moved to
another name is noticed before its bytes are used. Checking takes 0.2 ms for each MiB.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from struct import Struct
from zlib import crc32

from datago_gpu.sources.cache.payload_name import KEY_BYTES, UNKNOWN_VERSION, VERSION_BYTES, PayloadName
from datago_gpu.units import MiB

__all__ = ["BLOCK", "Damaged", "Entry", "head_bytes", "head_of", "size_on_disk"]

BLOCK = MiB
"""Bytes of a payload under one checksum. Shards are read and written in such blocks."""
_FORM = b"datago 1"
_FIELDS = Struct(f"<8s{KEY_BYTES}s{VERSION_BYTES}sQ")
"""The form of the file, key, version, bytes of the payload. A CRC-32 of these and of the checksums follows."""
_SUM_BYTES = 4
_FIRST_READ = _FIELDS.size + 2 * _SUM_BYTES
"""The whole head of a payload of one block."""
_DISK_BLOCK = 4096
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Opens files alone: nothing waits for the writer of a FIFO, and a link leads nowhere."""


class Damaged(Exception):
    """Says that a file is not the entry that its name says: cut, changed, or never finished."""


def _blocks(length: int) -> int:
    return -(-length // BLOCK)


def head_bytes(length: int) -> int:
    """Returns the bytes before a payload of that length."""
    return _FIELDS.size + _SUM_BYTES * (1 + _blocks(length))


def size_on_disk(file_bytes: int) -> int:
    """Returns the bytes that a file takes on a disk: whole blocks."""
    return -(-file_bytes // _DISK_BLOCK) * _DISK_BLOCK


def head_of(name: PayloadName, length: int, sums: Sequence[int]) -> bytes:
    """Returns the bytes before a payload. sums: the CRC-32 of each of its blocks."""
    fields, table = _FIELDS.pack(_FORM, name.key, name.version, length), Struct(f"<{len(sums)}I").pack(*sums)
    return fields + crc32(table, crc32(fields)).to_bytes(_SUM_BYTES, "little") + table


class Entry:
    """An entry that is open for reading. Any thread may read. The file is closed with the object, so that no read under
    way loses it.

    Raises FileNotFoundError if there is none, Damaged, or another OSError.
    """

    def __init__(self, path: str, key: bytes) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, _READ)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Damaged
        size = status.st_size
        head = os.pread(self._descriptor, _FIRST_READ, 0)
        if len(head) < _FIRST_READ:
            raise Damaged
        form, found, self.version, self.length = _FIELDS.unpack_from(head)
        self._begin = head_bytes(self.length)
        if form != _FORM or found != key or size != self._begin + self.length:
            raise Damaged
        table_at = _FIELDS.size + _SUM_BYTES
        table = head[table_at:] if self._begin == _FIRST_READ else self._read(table_at, self._begin - table_at)
        if crc32(table, crc32(head[: _FIELDS.size])) != int.from_bytes(head[_FIELDS.size : table_at], "little"):
            raise Damaged
        self.sums: Sequence[int] = Struct(f"<{_blocks(self.length)}I").unpack(table)
        """The CRC-32 of each block."""

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def serves(self, name: PayloadName) -> bool:
        """Returns whether the entry is of the version that a listing says, if it says one."""
        return name.version in (UNKNOWN_VERSION, self.version)

    def content(self) -> bytes:
        """Reads and returns the payload. Raises Damaged, OSError."""
        content = self._read(self._begin, self.length)
        if len(self.sums) == 1:
            self._check(0, content)
        else:
            view = memoryview(content)
            for number in range(len(self.sums)):
                self._check(number, view[number * BLOCK : (number + 1) * BLOCK])
        return content

    def block(self, number: int) -> bytes:
        """Reads and returns a block. Raises Damaged, OSError."""
        at = number * BLOCK
        block = self._read(self._begin + at, min(BLOCK, self.length - at))
        self._check(number, block)
        return block

    def _check(self, number: int, block: bytes | memoryview) -> None:
        if crc32(block) != self.sums[number]:
            raise Damaged

    def _read(self, at: int, size: int) -> bytes:
        found = os.pread(self._descriptor, size, at)
        while len(found) < size:
            more = os.pread(self._descriptor, size - len(found), at + len(found))
            if not more:
                raise Damaged
            found += more
        return found
