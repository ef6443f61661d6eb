"""Counts the bytes that all processes together have put into a cache, so that they never exceed its size.

The number lies in a file, and is changed under a lock on this file (flock), which the system releases if a process is
killed. A killed process may leave a file that it has not finished, and the number then stays too high. The next process
that finds the folder unused removes such files and counts again; it looks only into the folders that have changed since
the last count.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from struct import Struct

from datago_gpu.sources.cache.cache_entry import size_on_disk

__all__ = ["UNFINISHED", "SharedRoom", "used_bytes"]

_FOLDERS = [f"{number:02x}" for number in range(256)]
"""The folders of entries, by the first byte of the key."""
UNFINISHED = ".new"
"""Ending of a file that is being written."""
_NUMBER = Struct("<Q")
_COUNTED = Struct("<QQ")
"""Of each folder, when it had last changed when it was counted (ns since 1970), and its bytes."""
_SETTLED_S = 2.0
"""A folder that changed less than this many seconds ago may change again without a new time of change."""
_PRIVATE = 0o600
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class SharedRoom:
    """Room for `capacity` bytes in a folder. Any thread may use it. Making it may take a while: see the module.

    Raises OSError; in particular FileNotFoundError if the folder was deleted or moved, and this object is of no use any
    more.
    """

    def __init__(self, folder: str, capacity: int) -> None:
        self._folder, self._capacity = folder, capacity
        self._lock = threading.Lock()
        self._users = self._number = -1
        os.makedirs(folder, 0o700, exist_ok=True)
        try:
            self._open()
        except BaseException:
            self._close()  # the error keeps this object alive, and with it the lock for which other processes wait
            raise

    def __del__(self) -> None:
        self._close()

    def take(self, size: int) -> bool:
        """Takes `size` bytes. Returns False if there is no room for them."""
        with self._locked():
            used = self._used()
            if used + size > self._capacity:
                return False
            self._set_used(used + size)
            return True

    def give_back(self, size: int) -> None:
        """Frees `size` bytes."""
        with self._locked():
            self._set_used(max(0, self._used() - size))

    def _open(self) -> None:
        self._users = os.open(os.path.join(self._folder, "users"), _OPEN, _PRIVATE)
        self._number = os.open(os.path.join(self._folder, "room"), _OPEN, _PRIVATE)
        with suppress(BlockingIOError):  # others use the folder: their count is right
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._count()
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _close(self) -> None:
        for descriptor in (self._users, self._number):
            if descriptor >= 0:
                os.close(descriptor)
        self._users = self._number = -1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:  # flock does not keep the threads of a process apart
            fcntl.flock(self._number, fcntl.LOCK_EX)
            try:
                if not os.path.samestat(os.fstat(self._number), os.stat(os.path.join(self._folder, "room"))):
                    raise FileNotFoundError(2, "the folder was replaced by another one")
                yield
            finally:
                fcntl.flock(self._number, fcntl.LOCK_UN)

    def _used(self) -> int:
        found = os.pread(self._number, _NUMBER.size, 0)
        return int(_NUMBER.unpack(found)[0]) if len(found) == _NUMBER.size else 0

    def _set_used(self, used: int) -> None:
        os.pwrite(self._number, _NUMBER.pack(used), 0)

    def _count(self) -> None:
        """Counts the bytes of all entries, and removes unfinished ones. No other process may use the folder."""
        known, counted = os.pread(self._number, len(_FOLDERS) * _COUNTED.size, _NUMBER.size), []
        for number, name in enumerate(_FOLDERS):
            place = known[number * _COUNTED.size : (number + 1) * _COUNTED.size]
            before = _COUNTED.unpack(place) if len(place) == _COUNTED.size else (0, 0)
            counted.append(_count_folder(os.path.join(self._folder, name), *before))
        content = _NUMBER.pack(sum(size for _, size in counted)) + b"".join(_COUNTED.pack(*each) for each in counted)
        os.pwrite(self._number, content, 0)


def _count_folder(folder: str, known_at: int, known_bytes: int) -> tuple[int, int]:
    """Returns when a folder last changed, 0 if unknown, and the bytes of its entries. Removes unfinished ones."""
    try:
        changed_at = os.stat(folder).st_mtime_ns
        if known_at and changed_at == known_at:
            return known_at, known_bytes
        size = _sum_up(folder)
        changed_at = os.stat(folder).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    settled = changed_at < (time.time() - _SETTLED_S) * 1e9
    return changed_at if settled else 0, size


def used_bytes(folder: str) -> int:
    """Returns the bytes of all entries by the last count and what was added since; 0 if there is no count."""
    try:
        with open(os.path.join(folder, "room"), "rb") as file:
            found = file.read(_NUMBER.size)
    except OSError:
        return 0
    return int(_NUMBER.unpack(found)[0]) if len(found) == _NUMBER.size else 0


def _sum_up(folder: str) -> int:
    """Returns the bytes on disk of the entries in a folder. Removes unfinished ones."""
    size = 0
    with os.scandir(folder) as files:
        for file in files:
            with suppress(FileNotFoundError):
                if file.is_dir(follow_symlinks=False):
                    continue  # no entry: somebody else's
                if file.name.endswith(UNFINISHED):
                    os.unlink(file.path)
                else:
                    size += size_on_disk(file.stat(follow_symlinks=False).st_size)
    return size
