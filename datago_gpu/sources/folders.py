"""Lists the images of a folder and of all folders below it, in the order of their names, a folder at a time.

Symbolic links are followed: to images as they come, to folders so that each real folder is listed once. So circles of
links end, and a link to a folder that is listed anyway adds nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator
from functools import partial
from typing import Literal, NamedTuple

from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.base import Skipped, shown_path
from datago_gpu.sources.local import Patience

__all__ = ["EXTENSIONS", "Listed", "walk"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".avif")

_LEADS_NOWHERE = frozenset((errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR))
"""What a link that cannot be followed answers, beside ENOENT."""


class Listed(NamedTuple):
    """What one folder holds."""

    images: list[str]
    """Paths, sorted."""
    links: int = 0
    """Symbolic links to images and folders that were passed over."""
    unreadable: Skipped | None = None
    """In place of all else, where the folder cannot be read."""


class _Entries(NamedTuple):
    images: list[str]
    folders: list[tuple[str, str]]
    """Path, and of a symbolic link its real path, else an empty text; sorted."""
    links: int


async def walk(root: str, patience: Patience, *, follow_links: bool) -> AsyncGenerator[Listed, None]:
    """Yields what each folder holds, when it is its turn. Raises SourceError where the root cannot be read."""
    trees = _Trees(root)
    waiting = [(root, trees.root)]
    while waiting:
        folder, real = waiting.pop()
        try:
            entries = await call_in_thread(None, patience, partial(_entries, folder, follow_links))
        except OSError as error:
            if folder == root:
                raise SourceError(f"cannot list {shown_path(root)}: {error.strerror}; check root_path") from error
            skipped = Skipped(-1, "", shown_path(folder), "unreadable-folder", str(error.strerror))
            yield Listed([], unreadable=skipped)
            continue
        waiting.extend(reversed(trees.new(real, entries.folders)))
        yield Listed(entries.images, entries.links)


class _Trees:
    """Knows which real folders are listed or will be: those below the root, and those below what links lead to."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._tops = {self.root}

    def new(self, real: str, folders: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The folders that are still to be listed, each with its real path, of those in the folder at `real`."""
        found = []
        for path, target in folders:
            place = target or os.path.join(real, os.path.basename(path))
            if self._covers(place) if target else place in self._tops:
                continue
            if target:
                self._tops.add(target)
            found.append((path, place))
        return found

    def _covers(self, real: str) -> bool:
        """Whether the folder is the top of a tree, or below one."""
        while real not in self._tops:
            above = os.path.dirname(real)
            if above == real:
                return False
            real = above
        return True


def _entries(folder: str, follow_links: bool) -> _Entries:
    images, folders, links = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind and not follow_links and entry.is_symlink():
                links += 1
            elif kind == "folder":
                folders.append((entry.path, os.path.realpath(entry.path) if entry.is_symlink() else ""))
            elif kind == "image":
                images.append(entry.path)
    return _Entries(sorted(images), sorted(folders), links)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "image", ""]:
    """What an entry is, or what it leads to. A link with the name of an image that leads nowhere is an image, which is
    then missing: it costs itself, and is told."""
    named = entry.name.lower().endswith(EXTENSIONS)
    try:
        if entry.is_dir():
            return "folder"
        if not named:
            return ""
        return "image" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else ""
    except OSError as error:
        if error.errno in _LEADS_NOWHERE and entry.is_symlink():
            return "image" if named else ""
        raise
