"""Makes the shared memory between the feeder and the trainer's process, and decides who may write where in it.

The memory is anonymous (`memfd`) and passed on as a file descriptor: it needs no space in /dev/shm, has no name that a
crash could leave behind, and is freed with the last process that holds it. Where the system call is refused, as in some
containers, an unlinked file in the folder for temporary files is used instead. macOS lacks the system call: there the
memory is POSIX shared memory, whose name is removed at once.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import secrets

from datago_gpu.errors import FeederError
from datago_gpu.system import has_memfd
from datago_gpu.units import MiB

__all__ = ["Allocator", "create", "create_sparse", "map_memory", "unnamed_file"]

log = logging.getLogger("datago_gpu")

_REFUSED = frozenset((errno.EPERM, errno.EACCES, errno.ENOSYS))
"""The errnos of a system call that a container's profile forbids or an old kernel lacks."""
_ALLOW = "Allow memfd_create in the container's profile, or set TMPDIR to a folder with room for it, best on a tmpfs"


def create(size: int) -> int:
    """Returns a file descriptor of `size` bytes of new shared memory. The caller owns it. Pages cost memory once
    written.

    Raises FeederError, which says what to change, if the memory cannot be made.
    """
    descriptor, refused = unnamed_file("datago_gpu-arena") if has_memfd() else (_posix_memory(), "")
    try:
        if refused:  # without this, writing a page for which the disk has no space would kill the process
            os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        raise FeederError(_explain(error, size, refused)) from error
    if refused:
        log.warning("%s: an unnamed file in the folder for temporary files is used instead. %s", refused, _ALLOW)
    return descriptor


def create_sparse(size: int) -> int:
    """Returns a file descriptor of `size` bytes of new shared memory, most of which is never written.

    The caller owns it. Raises FeederError if memfd_create is refused, because a file on a disk would need room for all
    bytes, or is missing, and OSError if this process may not have so large a file.
    """
    if not has_memfd():
        raise FeederError("this system has no memfd_create: decode processes need Linux")
    descriptor, refused = unnamed_file("datago_gpu-pixels")
    try:
        if refused:
            raise FeederError(f"{refused}. {_ALLOW}")
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unnamed_file(name: str) -> tuple[int, str]:
    """Returns a descriptor of an empty file in memory that is in no folder; the caller owns it. name: shown in lists of
    open files.

    Where memfd_create is refused, the file is in the folder for temporary files, and the returned text says why. Raises
    FeederError if such a file cannot be made either. Where there is no memfd_create, the text is empty.
    """
    refused = ""
    if has_memfd():
        try:
            return os.memfd_create(name, os.MFD_CLOEXEC), ""
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            refused = f"memfd_create is refused ({error.strerror})"
    import tempfile  # imported here because it is rarely needed

    try:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno()), refused
    except OSError as error:
        why = f"{refused}, and no" if refused else "no"
        raise FeederError(f"{why} temporary file can be made ({error.strerror}). {_ALLOW}") from error


def _posix_memory() -> int:
    """Returns a descriptor of new POSIX shared memory without a name. Its size can be set once."""
    import _posixshmem  # what the standard library's shared memory is made of

    name = f"/datago_{secrets.token_hex(8)}"
    descriptor: int = _posixshmem.shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
    _posixshmem.shm_unlink(name)
    return descriptor


def _explain(error: OSError, size: int, refused: str) -> str:
    """Returns why shared memory of `size` bytes could not be made."""
    wanted = f"{size // MiB} MiB of memory shared with the feeder (arena_mb)"
    if error.errno == errno.EFBIG:
        return f"{wanted} exceed the limit for the size of files: raise it (ulimit -f unlimited), or lower arena_mb"
    where = f"; {refused}, and a temporary file was used instead. {_ALLOW}" if refused else ""
    return f"{wanted} cannot be allocated ({error.strerror}){where}"


def map_memory(descriptor: int) -> mmap.mmap:
    """Maps the whole file and closes the descriptor: the mapping alone keeps the memory."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


class Allocator:
    """Hands out pieces of the memory, the lowest that fits first. Works with offsets only and touches no memory.

    There are only a few pieces at any time. Taking the lowest uses the same pages again and again. A ring buffer over
    the whole memory would fault in each page, which costs as much as receiving the bytes, and would find nothing in the
    CPU cache.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: dict[int, tuple[int, int]] = {}  # key -> (begin, end)

    def take(self, key: int, size: int) -> int | None:
        """Returns the offset of `size` bytes, or None while there is no room. `key` names the piece for `give_back`.

        Raises ValueError if the whole memory is too small: waiting would never end.
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
        """Frees the piece for reuse. Raises KeyError if it is not taken."""
        del self._pieces[key]

    def __len__(self) -> int:
        """Returns how many pieces are taken."""
        return len(self._pieces)
