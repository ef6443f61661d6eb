"""The regular members of a tar stream, one after the other: ustar, PAX and GNU names, as `tarfile` reads them.

`tarfile` itself parses the headers. Its own way through a stream would copy each byte three times, read headers of any
length into memory, and take damage behind the first header for the end. Nothing is ever written or followed: links,
devices, folders and sparse files are passed over.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO

__all__ = ["BadShard", "TarStream"]

_EOFHeaderError: type[tarfile.HeaderError] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_EmptyHeaderError: type[tarfile.HeaderError] = tarfile.EmptyHeaderError  # type: ignore[attr-defined]

_LONGEST_HEADER = 256 * 1024
"""Bytes of one extended header, which has to be in memory as a whole."""
_GLOBAL_BYTES = 1024 * 1024
"""Of the records that hold for all members, which are kept to the end."""
_MOST_OTHERS = 100_000
_BLOCK = 1024 * 1024
_MANY_DIGITS = re.compile(rb"[0-9]{256}")
"""`tarfile` looks for numbers in a way that takes the square of their length."""


class BadShard(Exception):
    """A shard that cannot be read on, in words."""


class _Counted:
    """What `tarfile` sees of a file: reads of a bounded length, and how far they have come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise BadShard(f"a header of {size} bytes at byte {self.position}")
        block = self._file.read(size)
        self.position += len(block)
        if size > tarfile.BLOCKSIZE and _MANY_DIGITS.search(block):
            raise BadShard(f"a header that is no header before byte {self.position}")
        return block

    def tell(self) -> int:
        return self.position


class _Archive(tarfile.TarFile):
    """As much of a TarFile as its header parser looks at: without a first member read, and without a list of them."""

    def __init__(self, file: _Counted) -> None:
        self.fileobj = file  # type: ignore[assignment]
        self.encoding, self.errors = "utf-8", "surrogateescape"
        self.pax_headers = {}
        self.offset = 0


class TarStream:
    """Iterating gives (name, size in bytes) of each regular member; `read` then gives its content, if it is wanted.

    `position` is how many bytes have been used. marked: the end has to be marked, since a cut cannot be told from it
    otherwise. Raises BadShard, and what reading the file raises.
    """

    def __init__(self, file: BinaryIO, *, marked: bool = False) -> None:
        self._file, self._marked = file, marked
        self._counted = _Counted(file)
        self._archive = _Archive(self._counted)
        self._size = 0

    @property
    def position(self) -> int:
        return self._counted.position

    def __iter__(self) -> Iterator[tuple[str, int]]:
        others = 0
        while (info := self._next()) is not None:
            others += 1
            if info.isreg() and not info.issparse():
                others, self._size = 0, info.size
                yield info.name, info.size
            if others > _MOST_OTHERS:
                raise BadShard(f"{others} links, folders and the like in a row, before byte {self.position}")
            self._skip(self._archive.offset - self.position)

    def read(self) -> bytes:
        """The content of the member that the iterator is at. Once for each."""
        content = self._file.read(self._size)
        self._counted.position += len(content)
        if len(content) < self._size:
            raise BadShard(f"it ends within a file, at byte {self.position}")
        return content

    def _next(self) -> tarfile.TarInfo | None:
        """The next member of any kind; None at the end."""
        start = self.position
        try:
            info = tarfile.TarInfo.fromtarfile(self._archive)
        except _EOFHeaderError:
            return None
        except _EmptyHeaderError:
            if start and not self._marked:
                return None  # some writers leave the mark out
            raise BadShard(f"it ends without the mark of an end, at byte {start}" if start else "it is empty") from None
        except (BadShard, OSError, EOFError):  # of the file
            raise
        except (tarfile.TarError, ValueError, LookupError, ArithmeticError, TypeError, RecursionError) as error:
            raise BadShard(f"no tar header at byte {start}: {error}") from None
        if info.size < 0 or _length(self._archive.pax_headers) > _GLOBAL_BYTES:
            raise BadShard(f"no sound tar header at byte {start}")
        return info

    def _skip(self, count: int) -> None:
        if count < 0:
            raise BadShard(f"a member that ends before it begins, at byte {self.position}")
        while count:
            block = self._file.read(min(count, _BLOCK))
            if not block:
                raise BadShard(f"it ends within a file, at byte {self.position}")
            self._counted.position += len(block)
            count -= len(block)


def _length(records: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in records.items()) if records else 0
