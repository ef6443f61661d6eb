"""Lists the images of a folder and of all folders below it in the order of their names, one folder at a time.

Symbolic links are followed. Links to images are images. Links to folders are followed so that each real folder is
listed once: circles of links end, and a link to a folder that is listed anyway adds nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Literal, NamedTuple

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.config.file_names import Selection, is_hidden
from datago_gpu.config.local_paths import shown_with
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.listed_images import Beside, Page
from datago_gpu.sources.local import Patience, read_file
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import SampleRef, Skipped, printable_path, utf8_text
from datago_gpu.sources.sample_info import SampleInfo

__all__ = ["Folder"]

_LEADS_NOWHERE = frozenset((errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR))
"""The errnos of a link that cannot be followed, besides ENOENT."""


class Folder:
    """A `Lister` for a local folder: its images by name, then its subfolders by name, each the same way.

    A name is the path below the root, as the bytes of the file system. A sample's id is that path with "/" between
    folders; bytes that are not UTF-8 appear as "\\xNN".
    """

    resumes = False

    def __init__(self, config: LoaderConfig) -> None:
        source = config.source_config
        assert isinstance(source, FileSource)
        self.root = config.absolute(source.root_path)
        self.shown = shown_with(printable_path(self.root), source.root_path)
        self._patience, self._selection = Patience(config.http_config), source.selection
        self._above = os.path.join(self.root, "")
        self._above_bytes = len(os.fsencode(self._above))

    async def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:  # noqa: ARG002 - see `resumes`
        """See `Lister.pages`: yields a page for each folder. Raises SourceError if the root cannot be read."""
        async with aclosing(walk(self.root, self.shown, self._patience, self._selection)) as folders:
            async for folder in folders:
                passed.join(folder.passed_over)
                besides = [Beside(self._below(path)) for path in folder.besides]
                yield Page([self._below(path) for path in folder.images], folder.unreadable, besides=besides)

    async def folders(self) -> list[bytes]:
        """See `Lister.folders`."""
        try:
            entries = await call_in_thread(None, self._patience, partial(_entries, self.root, self._selection))
        except OSError as error:
            raise _unlisted(self.shown, error) from error
        return [self._below(path) for path, _ in entries.folders]

    async def classes(self) -> list[str] | None:
        """See `Lister.classes`."""
        return None

    async def read(self, name: bytes, most: int) -> bytes:
        """See `Lister.read`."""
        path = self._above + os.fsdecode(name)
        content: bytes
        try:
            content, size = await call_in_thread(None, self._patience, partial(read_file, path, most))
        except OSError as error:
            raise SourceError(f"cannot read {printable_path(path)}: {error.strerror}") from error
        if size > most:
            raise SourceError(f"{printable_path(path)} has {size} bytes, at most {most} are read")
        return content

    def _below(self, path: str) -> bytes:
        return os.fsencode(path)[self._above_bytes :]

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> SampleRef:  # noqa: ARG002 - there is none
        """See `Lister.ref`."""
        below = os.fsdecode(name)
        return SampleRef(index, SampleInfo(utf8_text(below), source="filesystem"), path=self._above + below)


class Listed(NamedTuple):
    """Holds the content of one folder."""

    images: list[str]
    """Paths, sorted."""
    passed_over: PassedOver
    """Counts the other files in the folder, which were left out."""
    besides: Sequence[str] = ()
    """Paths of the files that `Selection.is_beside`, sorted."""
    unreadable: Skipped | None = None
    """Set, and all other fields empty, if the folder cannot be read."""


class _Entries(NamedTuple):
    images: list[str]
    folders: list[tuple[str, str]]
    """Path, and real path if it is a symbolic link, else ""; sorted."""
    passed_over: PassedOver
    besides: list[str]


async def walk(root: str, shown: str, patience: Patience, selection: Selection) -> AsyncGenerator[Listed, None]:
    """Yields the content of each folder, in order. Raises SourceError if the root cannot be read.

    shown: the root for messages. selection: which files count as images, and whether links are followed. The root
    itself may be hidden, or a link.
    """
    trees = _Trees(root)
    waiting = [(root, trees.root)]
    while waiting:
        folder, real = waiting.pop()
        try:
            entries = await call_in_thread(None, patience, partial(_entries, folder, selection))
        except OSError as error:
            if folder == root:
                raise _unlisted(shown, error) from error
            skipped = Skipped(-1, "", printable_path(folder), "unreadable-folder", str(error.strerror))
            yield Listed([], PassedOver(), unreadable=skipped)
            continue
        waiting.extend(reversed(trees.new(real, entries.folders)))
        yield Listed(entries.images, entries.passed_over, entries.besides)


def _unlisted(shown: str, error: OSError) -> SourceError:
    return SourceError(f"cannot list {shown}: {error.strerror}; check root_path")


class _Trees:
    """Knows which real folders are listed or will be: those below the root, and those below the targets of links."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._tops = {self.root}

    def new(self, real: str, folders: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Returns those folders in the folder at `real` that must still be listed, each with its real path."""
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
        """Returns whether the folder is the top of a known tree, or below one."""
        while real not in self._tops:
            above = os.path.dirname(real)
            if above == real:
                return False
            real = above
        return True


def _entries(folder: str, selection: Selection) -> _Entries:
    images, folders, besides, passed = [], [], [], PassedOver()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not selection.hidden and is_hidden(entry.name):
                if selection.takes(entry.name) or entry.is_dir(follow_symlinks=False):
                    passed.add("hidden", entry.path)
                continue
            kind = _kind(entry, selection)
            if kind == "other":
                passed.add("extension", entry.path)
            elif kind and not selection.follow_links and entry.is_symlink():
                passed.add("link", entry.path)
            elif kind == "folder":
                folders.append((entry.path, os.path.realpath(entry.path) if entry.is_symlink() else ""))
            elif kind == "image":
                images.append(entry.path)
            elif kind == "beside":
                besides.append(entry.path)
    return _Entries(sorted(images), sorted(folders), passed, sorted(besides))


def _kind(entry: os.DirEntry[str], selection: Selection) -> Literal["folder", "image", "beside", "other", ""]:
    """Returns the kind of an entry or of its link's target; "beside" for a file that says something about images,
    "other" for another file without an image's extension, "" for a device.

    A broken link with the name of an image counts as an image: it is then reported as one missing sample."""
    named = selection.takes(entry.name)
    try:
        if entry.is_dir():
            return "folder"
        if not named:
            return "beside" if selection.is_beside(entry.name) and entry.is_file() else "other"
        return "image" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else ""
    except OSError as error:
        if error.errno in _LEADS_NOWHERE and entry.is_symlink():
            return "image" if named else "other"
        raise
