"""Finds the images of a folder and keeps their records up to date, reading again only the files that changed.

Ids. An image's id is its sidecar's `id`, else its file's stem. A stem with other characters than `[A-Za-z0-9_-]`, and
an id that another image holds already, becomes `STEM-DIGEST`: the stem with every other character replaced by `_`, cut
to 40, and 16 hex digits of the SHA-256 of the path below the root. Ids asked for in sidecars are given out first, then
stems, each in byte order of the paths.

Sources. An image's source is its sidecar's `source`, else the name of the top-level folder that it lies in, else (it
lies in the root itself) the name of the root.

Hidden images, by a name of their path as `names.is_hidden` has it, are passed over unless they are asked for; what a
sidecar names may be hidden.

Skipped, with one line in the log for each state of the file: an image that cannot be read, and an image whose sidecar
cannot be read, because its id, tags and attributes would be wrong.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from datago_gpu.config.file_names import EXTENSIONS, hidden_part
from datago_gpu.errors import ConfigError
from datago_gpu.server.records import (
    IMAGE_TYPES,
    ImageFacts,
    LatentFile,
    Record,
    Sidecar,
    Unreadable,
    raise_if_overloaded,
    read_facts,
    read_sidecar,
)

logger = logging.getLogger(__name__)

_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,512}")
_READERS = 4
_NO_SIDECAR = Sidecar()

T = TypeVar("T")


class ScanStopped(Exception):
    """The scan was told to stop before it was through."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells one state of a file from another without reading it."""

    mtime_ns: int
    size: int
    inode: int


Files = Mapping[str, Stamp]
"""Path below the root, with `/` -> stamp; regular files only."""


class _Cache(Generic[T]):
    """Remembers what `read` made of each file, until its stamp changes."""

    def __init__(self, what: str, read: Callable[[str], T]) -> None:
        self._what, self._read = what, read
        self._known: dict[str, tuple[Stamp, T | None]] = {}

    def get(self, root: str, path: str, stamp: Stamp) -> T | None:
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, self._load(root, path))
        return known[1]

    def _load(self, root: str, path: str) -> T | None:
        try:
            return self._read(os.path.join(root, path))
        except Unreadable as error:
            logger.warning("skipped %s %r: %s", self._what, path, error)
            return None

    def keep(self, paths: Files) -> None:
        """Forgets the files that are not among `paths`."""
        for path in self._known.keys() - paths.keys():
            del self._known[path]


class Folder:
    """A folder of images. Raises ConfigError when it is missing or cannot be listed.

    hidden: whether hidden images count as well. Not for use by several threads at once, but for `stop`."""

    def __init__(self, root: str | os.PathLike[str], *, hidden: bool = False) -> None:
        self.root = os.path.realpath(root)
        try:
            os.scandir(self.root).close()
        except OSError as error:
            raise ConfigError(f"cannot serve the folder {os.fspath(root)!r}: {error.strerror}") from error
        self._hidden = hidden
        self._files: Files | None = None
        self._facts = _Cache[ImageFacts]("image", read_facts)
        self._sidecars = _Cache[Sidecar]("image with the sidecar", read_sidecar)
        self._warned: set[str] = set()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Makes a running scan, and every later one, raise ScanStopped soon."""
        self._stopped.set()

    def scan(self) -> list[Record] | None:
        """All images as they are now, or None when no file changed since the last scan."""
        files = self._walk()
        if files == self._files:
            return None
        for cache in (self._facts, self._sidecars):
            cache.keep(files)
        records = self._records(files)
        self._files = files
        return records

    def _walk(self) -> Files:
        files: dict[str, Stamp] = {}
        folders = [""]
        while folders:
            self._check_stopped()
            folder = folders.pop()
            for entry in self._entries(folder):
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path + "/")
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # gone since it was listed
                        state = entry.stat(follow_symlinks=False)
                        files[path] = Stamp(state.st_mtime_ns, state.st_size, state.st_ino)
        return files

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                yield from entries
        except OSError as error:
            raise_if_overloaded(error)  # or all its images would be gone from the index
            self._warn_once(f"skipped the folder {folder!r}: {error.strerror}")

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise ScanStopped

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)

    def _records(self, files: Files) -> list[Record]:
        images = self._images(files)
        sidecars = self._read_sidecars(images, files)
        latents = {path: self._latents(path, sidecar, files) for path, sidecar in sidecars.items()}
        taken = {os.path.relpath(latent.path, self.root) for found in latents.values() for latent in found}
        facts = self._read_facts([path for path in sidecars if path not in taken], files)
        ids = _assign_ids({path: sidecars[path].id for path in facts})
        return [
            self._record(path, ids[path], facts[path], sidecars[path], latents[path], files) for path in sorted(facts)
        ]

    def _images(self, files: Files) -> list[str]:
        """The images among the files. The log tells once of those that are passed over."""
        known = sorted(path for path in files if _ending(path) in EXTENSIONS)
        hidden = set() if self._hidden else {path for path in known if hidden_part(path.split("/"))}
        others = [path for path in known if path not in hidden and _ending(path) not in IMAGE_TYPES]
        if hidden:
            self._warn_once(f"passed over {len(hidden)} hidden images, such as {min(hidden)!r}: --hidden serves them")
        if others:
            endings = ", ".join(sorted(set(map(_ending, others))))
            self._warn_once(f"passed over {len(others)} images of formats that are not served ({endings})")
        return [path for path in known if path not in hidden and _ending(path) in IMAGE_TYPES]

    def _read_sidecars(self, images: Iterable[str], files: Files) -> dict[str, Sidecar]:
        found = {}
        for image in images:
            self._check_stopped()
            path = _sidecar_path(image)
            sidecar = self._sidecars.get(self.root, path, files[path]) if path in files else _NO_SIDECAR
            if sidecar is not None:
                found[image] = sidecar
        return found

    def _latents(self, image: str, sidecar: Sidecar, files: Files) -> tuple[LatentFile, ...]:
        found = []
        for latent in sidecar.latents or ():
            # Looked up among the files of the walk: what leads outside the root, or over a link, is not there.
            path = posixpath.normpath(posixpath.join(posixpath.dirname(image), latent.file))
            if path in files and path != image:
                found.append(LatentFile(latent.latent_type, os.path.join(self.root, path), latent.is_mask))
            else:
                self._warn_once(f"skipped latent {latent.latent_type!r} of {image!r}: no file {latent.file!r} here")
        return tuple(found)

    def _read_facts(self, images: list[str], files: Files) -> dict[str, ImageFacts]:
        def read(path: str) -> ImageFacts | None:
            self._check_stopped()
            return self._facts.get(self.root, path, files[path])

        pool = ThreadPoolExecutor(_READERS, thread_name_prefix="dataroom-scan")
        try:
            return {path: facts for path, facts in zip(images, pool.map(read, images), strict=True) if facts}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _record(
        self,
        path: str,
        image_id: str,
        facts: ImageFacts,
        sidecar: Sidecar,
        latents: tuple[LatentFile, ...],
        files: Files,
    ) -> Record:
        created = files[path].mtime_ns
        beside = files.get(_sidecar_path(path))
        return Record(
            id=image_id,
            path=os.path.join(self.root, path),
            source=sidecar.source or self._default_source(path),
            created_ns=created,
            updated_ns=max(created, beside.mtime_ns) if beside else created,
            facts=facts,
            sidecar=sidecar,
            latents=latents,
        )

    def _default_source(self, path: str) -> str:
        top, slash, _ = path.partition("/")
        name = top if slash else os.path.basename(self.root)
        return os.fsencode(name).decode("utf-8", "replace")


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _stem(path: str) -> str:
    return os.path.splitext(posixpath.basename(path))[0]


def _sidecar_path(image: str) -> str:
    return os.path.splitext(image)[0] + ".json"


def _derived_id(path: str, taken: Mapping[str, str]) -> str:
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", _stem(path))[:40]
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()
    short = f"{readable}-{digest[:16]}"
    return f"{readable}-{digest}" if short in taken else short


def _assign_ids(asked: Mapping[str, str | None]) -> dict[str, str]:
    """Path -> id, each id once; `asked` maps each path to the id that its sidecar asks for."""
    holders: dict[str, str] = {}
    rest = []
    for path in sorted(asked, key=lambda path: (asked[path] is None, path)):
        wanted = asked[path] or _stem(path)
        if _SAFE_ID.fullmatch(wanted) and wanted not in holders:
            holders[wanted] = path
        else:
            rest.append(path)
    for path in rest:
        holders[_derived_id(path, holders)] = path
    return {path: image_id for image_id, path in holders.items()}
