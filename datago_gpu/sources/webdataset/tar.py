"""Reads the regular members of a tar stream one after the other, with ustar, PAX and GNU names, as `tarfile` reads
them.

`tarfile` itself parses the headers. Its own reading of a stream would copy each byte three times, read headers of any
length into memory, and treat damage after the first header as the end. Concatenated archives (`cat a.tar b.tar`) are
read one after the other. Nothing is ever written: devices, folders and sparse files are passed over. Links to files of
the same archive are members as well; the caller resolves them.
"""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

__all__ = ["BadShard", "Member", "TarStream"]

_EOFHeaderError: type[tarfile.HeaderError] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_EmptyHeaderError: type[tarfile.HeaderError] = tarfile.EmptyHeaderError  # type: ignore[attr-defined]

_LONGEST_HEADER = 256 * 1024
"""The most bytes of one extended header, which must be in memory as a whole."""
_GLOBAL_BYTES = 1024 * 1024
"""The most bytes of the records that apply to all members, which are kept to the end."""
_MOST_OTHERS = 100_000
_MOST_ZEROS = 64 * 1024 * 1024
"""The most bytes of padding between the end of an archive and the next one."""
_BLOCK = 1024 * 1024
_MANY_DIGITS = re.compile(rb"[0-9]{256}")
"""`tarfile` looks for numbers in time quadratic in their length."""


class BadShard(Exception):
    """Says why a shard cannot be read further."""


class _Counted:
    """The file that `tarfile` sees: limits the length of reads, and counts the bytes read."""

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
            raise BadShard(f"an invalid header before byte {self.position}")
        return block

    def tell(self) -> int:
        return self.position

    def put_back(self, block: bytes) -> None:
        """Makes the next read, which must be of that size, return this block again."""
        self._put_back, self.position = block, self.position - len(block)


class _Archive(tarfile.TarFile):
    """The part of a TarFile that its header parser uses: reads no first member, and keeps no list of members."""

    def __init__(self, file: _Counted) -> None:
        self.fileobj = file  # type: ignore[assignment]
        self.encoding, self.errors = "utf-8", "surrogateescape"
        self.pax_headers = {}
        self.offset = 0


class Member(NamedTuple):
    """Describes a regular file of an archive, or a link to one. size: in bytes. link: the name of the link's target."""

    name: str
    size: int
    link: str = ""


class TarStream:
    """Iterates over the members; `read` then returns the content of a regular one, if wanted.

    `position` is the number of bytes used so far. marked: the archive must have an end marker, since a truncated one
    cannot be detected otherwise. size: of the file, in bytes, if contents that are not wanted can be passed over with
    `seek`. Raises BadShard, and errors of the file.
    """

    def __init__(self, file: BinaryIO, *, marked: bool = False, size: int | None = None) -> None:
        self._file, self._marked, self._file_size = file, marked, size
        self._counted = _Counted(file)
        self._archive = _Archive(self._counted)
        self._size = 0
        self._ended = False
        """Whether the end of an archive has been seen; another archive may follow."""
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
        """Returns the content of the current member. To be called once per member."""
        content = self._file.read(self._size)
        self._counted.position += len(content)
        if len(content) < self._size:
            raise BadShard(f"it ends within a file, at byte {self.position}")
        return content

    def _next(self) -> tarfile.TarInfo | None:
        """Returns the next member of any kind; None at the end."""
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
                    return None  # some writers omit the end marker
                what = f"it ends without an end marker, at byte {start}" if start else "it is empty"
                raise BadShard(what) from None
            except (BadShard, OSError, EOFError):  # errors of the file
                raise
            except (tarfile.TarError, ValueError, LookupError, ArithmeticError, TypeError, RecursionError) as error:
                if self._ended and start == self._restart:
                    return None  # the bytes after the end are no archive: tar ignores them, too
                raise BadShard(f"no tar header at byte {start}: {error}") from None
            if info.size < 0 or _length(self._archive.pax_headers) > _GLOBAL_BYTES:
                raise BadShard(f"no valid tar header at byte {start}")
            return info

    def _follows(self) -> bool:
        """Returns whether anything but zeros follows the end of an archive; that is then read next."""
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
        if self._file_size is not None:
            if self.position + count > self._file_size:
                raise BadShard(f"it ends within a file, at byte {self._file_size}")
            self._file.seek(count, os.SEEK_CUR)
            self._counted.position += count
            return
        while count:
            block = self._file.read(min(count, _BLOCK))
            if not block:
                raise BadShard(f"it ends within a file, at byte {self.position}")
            self._counted.position += len(block)
            count -= len(block)


def _target(info: tarfile.TarInfo) -> str:
    """Returns the name of a link's target: a hard link's own text, a symbolic link's from its own folder on."""
    if info.islnk():
        return info.linkname
    return posixpath.normpath(posixpath.join(posixpath.dirname(info.name), info.linkname))


def _length(records: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in records.items()) if records else 0
