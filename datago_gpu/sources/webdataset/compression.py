"""Decompresses a shard. Its first bytes determine the format, whatever its name says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

from datago_gpu.errors import ConfigError
from datago_gpu.sources.webdataset.tar import BadShard
from datago_gpu.sources.webdataset.windows import MOST_WINDOW, SMALL_WINDOW, xz_window, zstd_window

__all__ = ["DAMAGED", "compression_of", "format_name", "plain"]

_UNPACKED_BYTES = 64 * 1024
"""The most bytes that are lost before a fault in a compressed stream."""
_READ_BYTES = 256 * 1024
_HEAD_BYTES = 64
_XZ_OVERHEAD = 1024 * 1024
_MAGIC_BYTES = 6
_MOST_LAYERS = 3
_TAR_MAGIC_AT, _TAR_MAGIC_ENDS = 257, 262

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
"""The errors that reading `plain` may raise besides BadShard and errors of the file itself."""

_NO_ZSTD = (
    "cannot be read: this Python was built without zstd"
    if sys.version_info >= (3, 14)
    else "need a package: pip install 'datago_gpu[zstd]'"
)

_OTHERS = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"\x04\x22\x4d\x18": "lz4",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file (git lfs pull)",
    b"<!DOCTYPE": "a page of HTML",
    b"<!doctype": "a page of HTML",
    b"<html": "a page of HTML",
    b"<?xml": "XML, such as a store's error",
    b'{"': "JSON",
    b"{\n": "JSON",
}


def plain(file: io.BufferedReader, take: Callable[[int], None]) -> BinaryIO:
    """Returns the tar stream in a file; the file itself if it is not compressed.

    take: called with the bytes of a large window of zstd or xz; may wait for memory. All frames and blocks of a file
    must fit into the window of the first one, or into a small one. Raises BadShard, ConfigError, and the errors of
    `take`.
    """
    found: BinaryIO = file
    for _ in range(_MOST_LAYERS):
        opened = _open(cast(io.BufferedReader, found), take)
        if opened is None:
            break
        found = opened
    return found


def format_name(file: BinaryIO) -> str:
    """Returns, in words, the apparent format of a file that is no tar archive, by its first bytes; "" if unknown."""
    head = cast(io.BufferedReader, file).peek(_TAR_MAGIC_ENDS)
    if head[_TAR_MAGIC_AT:_TAR_MAGIC_ENDS] == b"ustar":
        return ""
    return next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "")


def compression_of(head: bytes) -> str:
    """Returns how a file with these first bytes is compressed: "gzip", "zstd", "bzip2" or "xz"; "" if it is not."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"  # the second magic number begins a skippable frame, as pzstd writes it
    if head.startswith(b"BZh"):
        return "bzip2"
    return "xz" if head.startswith(b"\xfd7zXZ\x00") else ""


def _open(file: io.BufferedReader, take: Callable[[int], None]) -> BinaryIO | None:
    kind = compression_of(file.peek(_MAGIC_BYTES)[:_MAGIC_BYTES])
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if kind == "zstd":
        return _with_buffer(_unpacked_zstd(file, take))
    if kind == "bzip2":
        return _with_buffer(_Unpacked(file, bz2.BZ2Decompressor))
    if kind == "xz":
        most = _usable_window(xz_window(file.peek(_HEAD_BYTES)), take) + _XZ_OVERHEAD
        return _with_buffer(_Unpacked(file, lambda: lzma.LZMADecompressor(memlimit=most)))
    return None


def _usable_window(window: int, take: Callable[[int], None]) -> int:
    """Returns the window that a file may have, after waiting for its memory."""
    if window > SMALL_WINDOW:
        take(window)
    return max(window, SMALL_WINDOW)


def _with_buffer(raw: io.RawIOBase) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(raw, _UNPACKED_BYTES))


class _Decompressor(Protocol):
    """The interface of the decompressors of bz2, lzma and zstd."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Unpacked(io.RawIOBase):
    """Reads the content of a file with any number of concatenated streams of one format. Its errors become BadShard.

    strict: the error of a format whose tools accept nothing after the last stream; None for bz2 and xz.
    """

    def __init__(self, file: BinaryIO, make: Callable[[], Any], strict: type[Exception] | None = None) -> None:
        self._file, self._make = file, make
        self._errors: tuple[type[Exception], ...] = (OSError, lzma.LZMAError, ValueError)
        self._errors += (strict,) if strict else ()
        self._is_strict = strict is not None
        self._decompressor: _Decompressor = make()
        self._left = b""
        self._begun, self._ended = False, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """See `io.RawIOBase`. Raises EOFError if the file ends within a stream."""
        while True:
            if self._decompressor.eof:
                self._left = self._decompressor.unused_data
                self._decompressor, self._begun, self._ended = self._make(), False, True
            data, begins = b"", not self._begun
            if self._decompressor.needs_input:
                data, self._left = self._left or self._file.read(_READ_BYTES), b""
                if not data:
                    if self._begun:
                        raise EOFError
                    return 0
                self._begun = True
            try:
                found = self._decompressor.decompress(data, len(buffer))
            except self._errors as error:
                if begins and self._ended and not self._is_strict:
                    return 0  # the bytes after the last stream are no stream: the tools ignore them, too
                raise BadShard(f"damaged: {error}") from None
            if found:
                buffer[: len(found)] = found
                return len(found)


def _zstd() -> Any:
    """Returns the module for zstd. Raises ConfigError if there is none."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise ConfigError(f"shards compressed with zstd {_NO_ZSTD}") from None
    return zstd


def _unpacked_zstd(file: io.BufferedReader, take: Callable[[int], None]) -> _Unpacked:
    zstd, window = _zstd(), zstd_window(file.peek(_HEAD_BYTES))
    if window > MOST_WINDOW:
        raise BadShard(f"it needs a window of {window} bytes, at most {MOST_WINDOW} are allowed")
    limit = (_usable_window(window, take) - 1).bit_length()
    options = {zstd.DecompressionParameter.window_log_max: limit}
    return _Unpacked(file, lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError)
