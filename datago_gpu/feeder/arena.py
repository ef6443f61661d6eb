"""Shared memory between the feeder and the trainer's process, and who may write where in it.

The memory is anonymous (`memfd`), passed on as a file descriptor: it needs no room in /dev/shm, has no name that a
crash could leave behind, and is gone with the last process that holds it. Where the system call is refused, as some
containers do, a file without a name in the folder for temporary files takes its place.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os

from datago_gpu.errors import FeederError
from datago_gpu.units import MiB

__all__ = ["ALIGNMENT", "Room", "aligned", "create", "map_memory", "unnamed_file"]

log = logging.getLogger("datago_gpu")

_REFUSED = frozenset((errno.EPERM, errno.EACCES, errno.ENOSYS))
"""What a system call answers that a container's profile, or an old kernel, does not have."""
_ALLOW = "Allow memfd_create in the container's profile, or set TMPDIR to a folder with room for it, best on a tmpfs"

ALIGNMENT = 64
"""Bytes; each payload begins at a multiple of it."""


def aligned(size: int) -> int:
    """The size, rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def create(size: int) -> int:
    """A file descriptor of `size` bytes of fresh shared memory. The caller owns it. Pages cost memory once written.

    Raises FeederError where there can be no such memory, saying what to change.
    """
    descriptor, refused = unnamed_file("datago_gpu-arena")
    try:
        if refused:  # a page that the disk has no room for would kill who writes it
            os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        raise FeederError(_told(error, size, refused)) from error
    if refused:
        log.warning("%s: a file without a name in the folder for temporary files takes its place. %s", refused, _ALLOW)
    return descriptor


def unnamed_file(name: str) -> tuple[int, str]:
    """A descriptor of an empty file in memory, that no folder holds; the caller owns it. name: for those who list them.

    Where memfd_create is refused, the file is in the folder for temporary files, and a text says why. Raises
    FeederError where that is not to be had either.
    """
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC), ""
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        refused = f"memfd_create is refused ({error.strerror})"
    import tempfile  # here, since it is hardly ever needed

    try:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno()), refused
    except OSError as error:
        raise FeederError(f"{refused}, and no temporary file can be made ({error.strerror}). {_ALLOW}") from error


def _told(error: OSError, size: int, refused: str) -> str:
    """Why there is no shared memory of so many bytes."""
    wanted = f"{size // MiB} MiB of memory that is shared with the feeder (arena_mb)"
    if error.errno == errno.EFBIG:
        return f"{wanted} are more than a file may have here: raise the limit (ulimit -f unlimited), or lower arena_mb"
    where = f"; {refused}, and a temporary file was to take its place. {_ALLOW}" if refused else ""
    return f"{wanted} cannot be had ({error.strerror}){where}"


def map_memory(descriptor: int) -> mmap.mmap:
    """Map all of it. Closes the descriptor: the mapping alone keeps the memory."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


class Room:
    """Hands out pieces of the memory, the lowest that fits first. Knows offsets, touches no memory.

    There are only ever a few pieces. Taking the lowest uses the same pages again and again: a ring round the whole
    memory has each page faulted in, which costs as much as receiving the bytes, and finds nothing in a cache.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: dict[int, tuple[int, int]] = {}  # key -> (begin, end)

    def take(self, key: int, size: int) -> int | None:
        """The offset of `size` bytes, or None while there is no room. `key` names the piece, to give it back.

        Raises ValueError where the memory is too small at any time: nobody shall wait for that.
        """
        if size > self.size:
            raise ValueError(f"{size} bytes do not fit into a memory of {self.size}")
        begin = 0
        for taken, end in sorted(self._pieces.values()):
            if begin + size <= taken:
                break
            begin = end
        if begin + size > self.size:
            return None
        self._pieces[key] = (begin, begin + size)
        return begin

    def give_back(self, key: int) -> None:
        """The piece may be written again. Raises KeyError if it is not taken."""
        del self._pieces[key]

    def __len__(self) -> int:
        """How many pieces are taken."""
        return len(self._pieces)
