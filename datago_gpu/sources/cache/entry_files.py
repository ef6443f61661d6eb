"""Reads and writes the entries of a cache. For use on threads: all of it may wait for a disk."""

from __future__ import annotations

import errno
import math
import os
import threading
from contextlib import suppress
from zlib import crc32

from datago_gpu.sources.cache.cache_entry import BLOCK, Damaged, Entry, head_bytes, head_of, size_on_disk
from datago_gpu.sources.cache.payload_name import PayloadName
from datago_gpu.sources.cache.shared_room import UNFINISHED, SharedRoom

__all__ = ["EntryFiles", "NewEntry", "Unusable"]

_NOT_DAMAGED = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
)
"""Errors that say nothing of an entry: there is none, it is another user's, or this process cannot open more files."""


class Unusable(Exception):
    """Says that an entry cannot be used, and should be replaced. damaged: else the payload has another version now."""

    def __init__(self, *, damaged: bool) -> None:
        super().__init__(damaged)
        self.damaged = damaged


class EntryFiles:
    """The entries in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.too_large: float = math.inf
        """The least bytes for which there was no room lately."""

    def open(self, name: PayloadName) -> Entry | None:
        """Returns the entry of that name; None if there is none that can be opened. Raises Unusable."""
        try:
            entry = Entry(self._path(name), name.key)
        except (Damaged, OSError) as error:
            if isinstance(error, OSError) and error.errno in _NOT_DAMAGED:
                return None
            raise Unusable(damaged=True) from None
        if not entry.serves(name):
            raise Unusable(damaged=False)
        return entry

    def read(self, name: PayloadName, most: int, at_once: int) -> bytes | Entry | None:
        """Returns the payload of that name; if it has more than `at_once` bytes, its entry. None if there is no entry,
        or one of more than `most` bytes. Raises Unusable."""
        entry = self.open(name)
        if entry is None or entry.length > most:
            return None
        return entry if entry.length > at_once else self.content(entry)

    def content(self, entry: Entry) -> bytes:
        """Returns the payload of an entry. Raises Unusable."""
        try:
            return entry.content()
        except (Damaged, OSError):
            raise Unusable(damaged=True) from None

    def write(self, room: SharedRoom, name: PayloadName, payload: bytes, *, replaces: bool) -> None:
        """Adds a payload, if there is room. Raises OSError."""
        new = self.begin(room, name, len(payload), replaces=replaces)
        if new is None:
            return
        try:
            view = memoryview(payload)
            for at in range(0, len(payload), BLOCK):
                new.add(view[at : at + BLOCK])
            new.finish()
        finally:
            new.drop()

    def begin(self, room: SharedRoom, name: PayloadName, length: int, *, replaces: bool) -> NewEntry | None:
        """Begins an entry of that many bytes. Returns None if there is no room, if the payload is there, or if another
        thread or process is writing it. Raises OSError.

        replaces: removes the entry that is there. A folder of that name stays.
        """
        path, size = self._path(name), size_on_disk(head_bytes(length) + length)
        descriptor = _create(path + UNFINISHED)
        if descriptor < 0:
            return None
        new = NewEntry(path, descriptor, name, length, room)
        try:
            if replaces:
                self._remove(path, room)
            if os.path.lexists(path):
                new.drop()
                return None
            new.held = size if room.take(size) else 0
        except BaseException:
            new.drop()
            raise
        if not new.held:
            self.too_large = min(self.too_large, size)
            new.drop()
            return None
        return new

    def _remove(self, path: str, room: SharedRoom) -> None:
        with suppress(FileNotFoundError, IsADirectoryError):
            size = os.lstat(path).st_size
            os.unlink(path)
            room.give_back(size_on_disk(size))
            self.too_large = math.inf

    def _path(self, name: PayloadName) -> str:
        text = name.key.hex()
        return f"{self.folder}/{text[:2]}/{text[2:]}"


class NewEntry:
    """An entry that is being written to a file of another name. Nobody sees it before `finish`.

    held: bytes of room that were taken for it. Methods may be called on any thread, one after the other or not.
    """

    def __init__(self, path: str, descriptor: int, name: PayloadName, length: int, room: SharedRoom) -> None:
        self._path, self._descriptor, self._name, self._length = path, descriptor, name, length
        self._room, self._lock = room, threading.Lock()
        self._at = head_bytes(length)
        self._sums: list[int] = []
        self.held = 0

    def add(self, block: bytes | memoryview) -> None:
        """Writes the next block: BLOCK bytes, the last one fewer. Does nothing after `drop`. Raises OSError."""
        with self._lock:
            if self._descriptor < 0:
                return
            self._sums.append(crc32(block))
            self._write(block, self._at)
            self._at += len(block)

    def finish(self) -> None:
        """Shows the entry to everybody, if it is complete. Raises OSError."""
        with self._lock:
            if self._descriptor < 0 or self._at != head_bytes(self._length) + self._length:
                return
            self._write(head_of(self._name, self._length, self._sums), 0)
            self._close()
            os.rename(self._path + UNFINISHED, self._path)
            self.held = 0

    def drop(self) -> None:
        """Removes the entry, unless it is finished."""
        with self._lock:
            self._remove()
            size, self.held = self.held, 0
        if size:
            with suppress(OSError):  # the next count corrects the number
                self._room.give_back(size)

    def __del__(self) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._descriptor < 0 and not self.held:
            return
        self._close()
        with suppress(OSError):
            os.unlink(self._path + UNFINISHED)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, content: bytes | memoryview, at: int) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written


def _create(path: str) -> int:
    """Creates a file and returns its descriptor; -1 if the file is there, or a file in place of its folder. Makes its
    folder. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for _ in range(2):
        try:
            return os.open(path, flags, 0o600)
        except (FileExistsError, NotADirectoryError):
            return -1
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(path), 0o700)
    raise FileNotFoundError(2, "the folder was deleted", path)
