"""Reads local files with retries: network file systems fail temporarily, and a later try can succeed."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from datago_gpu.config import HttpConfig
from datago_gpu.errors import DatagoError

if TYPE_CHECKING:
    from datago_gpu.sources.reference import Span

__all__ = ["NUL_IN_PATH", "Patience", "PatientFile", "exhaustion_error", "read_exactly", "read_file", "read_whole"]

T = TypeVar("T")

_TRANSIENT = frozenset((errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOTCONN, errno.EINTR))
"""The errnos that NFS and FUSE return for a while when their server, or the connection to it, has a problem."""
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE))
_FIRST_WAIT_S = 0.05
NUL_IN_PATH = ("bad-path", "the path contains the character NUL")
"""Reason and detail of a file that cannot be opened, for which Python raises ValueError."""


def exhaustion_error(number: int | None) -> DatagoError | None:
    """Returns the error that ends the run, if an errno means that the process, not a file, is to blame. Else None."""
    if number == errno.ENOMEM:
        raise MemoryError
    if number not in _EXHAUSTED:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DatagoError(
        f"too many open files: the feeder process may open {soft}. Raise the limit (ulimit -n), or lower "
        "http_config.concurrent_downloads"
    )


class Patience:
    """Retries work on files up to `http_config.max_tries` times, with growing waits in between. For use on threads."""

    def __init__(self, config: HttpConfig) -> None:
        self._tries, self._longest_s = config.max_tries, config.max_backoff_s
        self._closing = threading.Event()

    def close(self) -> None:
        """Ends all waits: work that is waiting fails with its last error."""
        self._closing.set()

    def __call__(self, work: Callable[[], T]) -> T:
        """Returns the result of `work`. Raises its last OSError, or DatagoError if descriptors have run out."""
        for number in range(1, self._tries + 1):
            try:
                return work()
            except OSError as error:
                if problem := exhaustion_error(error.errno):
                    raise problem from error
                if error.errno not in _TRANSIENT or number == self._tries:
                    raise
            wait = min(self._longest_s, _FIRST_WAIT_S * 4.0 ** (number - 1)) * random.uniform(0.5, 1.0)
            self._closing.wait(wait)
        raise AssertionError("unreachable")


def read_file(path: str, most: int, span: Span | None = None) -> tuple[bytes, int]:
    """Reads a file, or these bytes of a file. Returns the content (empty if its size is above `most`) and its size.

    Fewer bytes than the span has are returned if the file ends before.
    """
    with open(path, "rb", buffering=0) as file:
        if span:
            file.seek(span.begin)
            return (read_exactly(file, span.length) if span.length <= most else b""), span.length
        size = os.fstat(file.fileno()).st_size
        return (read_whole(file, size) if size <= most else b""), size


def read_whole(file: io.RawIOBase, size: int) -> bytes:
    """Reads a file of that size; reads one byte more if the file has grown meanwhile.

    One read of a raw file may return less than asked for, as on some network file systems.
    """
    payload = file.read(size + 1) or b""
    while len(payload) < size and (more := file.read(size + 1 - len(payload))):
        payload += more
    return payload


def read_exactly(file: io.RawIOBase, size: int) -> bytes:
    """Reads so many bytes; fewer at the end of the file."""
    payload = b""
    while len(payload) < size and (more := file.read(size - len(payload))):
        payload += more
    return payload


class PatientFile(io.RawIOBase):
    """A local file that is read from its beginning. After a transient error it is reopened at the same place."""

    def __init__(self, path: str, patience: Patience) -> None:
        self._path, self._patience = path, patience
        self._position = 0
        self._stale = False
        self._file = patience(self._open)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """See `io.RawIOBase`. Raises OSError if the file fails permanently, or has been replaced."""
        count = self._patience(lambda: self._read_into(buffer))
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _open(self) -> io.FileIO:
        file = io.FileIO(self._path)
        self._identity = _identity(file)
        return file

    def _read_into(self, buffer: bytearray) -> int:
        if self._stale:
            self._open_again()
        try:
            return self._file.readinto(buffer) or 0
        except OSError:
            self._stale = self._file.seekable()
            raise

    def _open_again(self) -> None:
        """Reopens the file. Raises OSError if that fails now, or if the file has changed."""
        before = self._identity
        file = self._open()
        if self._identity != before:
            file.close()
            raise OSError(errno.EINVAL, "the file changed while it was read")
        file.seek(self._position)
        self._file.close()
        self._file, self._stale = file, False


def _identity(file: io.FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
