"""The regular members of a tar stream, one after the other: ustar, PAX and GNU names, as `tarfile` reads them.

`tarfile` itself parses the headers. Its own way through a stream would copy each byte three times, read headers of any
length into memory, and take damage behind the first header for the end. Archives that were joined (`cat a.tar b.tar`)
are read one after the other. Nothing is ever written: devices, folders and sparse files are passed over. Links to files
of the same archive are members as well; where a link leads is the business of who reads.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

__all__ = ["BadShard", "Member", "TarStream"]

_EOFHeaderError: type[tarfile.HeaderError] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_EmptyHeaderError: type[tarfile.HeaderError] = tarfile.EmptyHeaderError  # type: ignore[attr-defined]

_LONGEST_HEADER = 256 * 1024
"""Bytes of one extended header, which has to be in memory as a whole."""
_GLOBAL_BYTES = 1024 * 1024
"""Of the records that hold for all members, which are kept to the end."""
_MOST_OTHERS = 100_000
_MOST_ZEROS = 64 * 1024 * 1024
"""Bytes of padding between the end of an archive and what follows it."""
_BLOCK = 1024 * 1024
_MANY_DIGITS = re.compile(rb"[0-9]{256}")
"""`tarfile` looks for numbers in a way that takes the square of their length."""


class BadShard(Exception):
    """A shard that cannot be read on, in words."""


class _Counted:
    """What `tarfile` sees of a file: reads of a bounded length, and how far they have come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._put_back = b""
        self.position = 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise BadShard(f"a header of {size} bytes at byte {self.position}")
        block, self._put_back = self._put_back or self._file.read(size), b""
        self.position += len(block)
        if size > tarfile.BLOCKSIZE and _MANY_DIGITS.search(block):
            raise BadShard(f"a header that is no header before byte {self.position}")
        return block

    def tell(self) -> int:
        return self.position

    def put_back(self, block: bytes) -> None:
        """Have the next read, which has to be of that size, return this block once more."""
        self._put_back, self.position = block, self.position - len(block)


class _Archive(tarfile.TarFile):
    """As much of a TarFile as its header parser looks at: without a first member read, and without a list of them."""

    def __init__(self, file: _Counted) -> None:
        self.fileobj = file  # type: ignore[assignment]
        self.encoding, self.errors = "utf-8", "surrogateescape"
        self.pax_headers = {}
        self.offset = 0


class Member(NamedTuple):
    """A regular file of an archive, or a link to one. size: in bytes. link: the name of the file that it stands for."""

    name: str
    size: int
    link: str = ""


class TarStream:
    """Iterating gives the members; `read` then gives the content of a regular one, if it is wanted.

    `position` is how many bytes have been used. marked: the end has to be marked, since a cut cannot be told from it
    otherwise. Raises BadShard, and what reading the file raises.
    """

    def __init__(self, file: BinaryIO, *, marked: bool = False) -> None:
        self._file, self._marked = file, marked
        self._counted = _Counted(file)
        self._archive = _Archive(self._counted)
        self._size = 0
        self._ended = False
        """Whether the end of an archive has been seen; more may follow."""
        self._restart = 0

    @property
    def position(self) -> int:
        return self._counted.position

    def __iter__(self) -> Iterator[Member]:
        others = 0
        while (info := self._next()) is not None:
            others += 1
            if info.isreg() and not info.issparse():
                others, self._size = 0, info.size
                yield Member(info.name, info.size)
            elif info.islnk() or info.issym():
                yield Member(info.name, 0, _target(info))
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
        while True:
            start = self.position
            try:
                info = tarfile.TarInfo.fromtarfile(self._archive)
            except _EOFHeaderError:
                if self._follows():
                    continue
                return None
            except _EmptyHeaderError:
                if self._ended or (start and not self._marked):
                    return None  # some writers leave the mark out
                what = f"it ends without the mark of an end, at byte {start}" if start else "it is empty"
                raise BadShard(what) from None
            except (BadShard, OSError, EOFError):  # of the file
                raise
            except (tarfile.TarError, ValueError, LookupError, ArithmeticError, TypeError, RecursionError) as error:
                if self._ended and start == self._restart:
                    return None  # what follows the end is no archive: tar ignores that, too
                raise BadShard(f"no tar header at byte {start}: {error}") from None
            if info.size < 0 or _length(self._archive.pax_headers) > _GLOBAL_BYTES:
                raise BadShard(f"no sound tar header at byte {start}")
            return info

    def _follows(self) -> bool:
        """Whether anything but zeros follows the end of an archive; it is then read next."""
        self._ended, begin = True, self.position
        while self.position - begin < _MOST_ZEROS:
            block = self._counted.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                return False
            if block.count(0) < tarfile.BLOCKSIZE:
                self._counted.put_back(block)
                self._archive.offset = self._restart = self.position
                self._archive.pax_headers = {}
                return True
        return False

    def _skip(self, count: int) -> None:
        if count < 0:
            raise BadShard(f"a member that ends before it begins, at byte {self.position}")
        while count:
            block = self._file.read(min(count, _BLOCK))
            if not block:
                raise BadShard(f"it ends within a file, at byte {self.position}")
            self._counted.position += len(block)
            count -= len(block)


def _target(info: tarfile.TarInfo) -> str:
    """The name of the member that a link leads to: a hard link names it, a symbolic one from its own folder on."""
    if info.islnk():
        return info.linkname
    return posixpath.normpath(posixpath.join(posixpath.dirname(info.name), info.linkname))


def _length(records: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in records.items()) if records else 0
