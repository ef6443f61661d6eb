"""Attributes of images from metadata.jsonl or metadata.csv in the nearest folder above them that has a row for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import Struct, structs

from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.around import Around, path_below
from datago_gpu.sources.captions import without_caption
from datago_gpu.sources.listed_images import Beside, Lister, Page
from datago_gpu.sources.metadata_rows import MetadataRows, parse_metadata
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import SampleRef, printable_path
from datago_gpu.units import MiB

__all__ = ["Described"]

_MOST_BYTES = 1024 * MiB
_READ_AT_ONCE = 4


class _File(Struct):
    """A metadata file. name: its path below the root. used: the number of its rows that an image has."""

    name: bytes
    rows: MetadataRows
    used: int = 0


class Described(Around):
    """A `Lister` of the images of another one, with their attributes. Rows without an image are counted.

    An image's extra is its attributes; empty if it has none. A bucket lists the images of a folder before its metadata,
    so that its whole listing is read first, and cannot go on behind a name.
    """

    def __init__(self, lister: Lister) -> None:
        super().__init__(lister)
        self._by_key, self.resumes = lister.resumes, False
        self._files: dict[bytes, _File] = {}
        """Folder, with a slash behind it unless it is the root -> its metadata file."""

    async def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:  # noqa: ARG002 - see `resumes`
        """See `Lister.pages`."""
        self._files.clear()
        pages = self._after_all(passed) if self._by_key else self._folder_by_folder(passed)
        async with aclosing(pages) as found:
            async for page in found:
                yield page._replace(extras=[self._attributes(name) for name in page.names])
        self._forget(list(self._files), passed)

    async def _after_all(self, passed: PassedOver) -> AsyncGenerator[Page, None]:
        """Yields the pages of the other lister when all metadata files are read."""
        async with aclosing(self._lister.pages(b"", passed)) as pages:
            held = [page async for page in pages]
        besides = [beside for page in held for beside in page.besides]
        for begin in range(0, len(besides), _READ_AT_ONCE):
            await asyncio.gather(*map(self._read, besides[begin : begin + _READ_AT_ONCE]))
        held.reverse()
        while held:
            yield held.pop()

    async def _folder_by_folder(self, passed: PassedOver) -> AsyncGenerator[Page, None]:
        """Yields the pages of the other lister, each of which is a folder, and reads the metadata files on the way."""
        async with aclosing(self._lister.pages(b"", passed)) as pages:
            async for page in pages:
                name = next(iter(page.names or [beside.name for beside in page.besides]), None)
                if name is not None:
                    self._forget([folder for folder in self._files if not name.startswith(folder)], passed)
                for beside in page.besides:
                    await self._read(beside)
                yield page

    async def _read(self, beside: Beside) -> None:
        folder = _folder_of(beside.name)
        shown = f"{self.shown.rstrip('/')}/{printable_path(beside.name.decode('utf-8', 'surrogateescape'))}"
        if folder in self._files:
            raise SourceError(f"{shown}: the folder has several metadata files: keep metadata.jsonl or metadata.csv")
        self._files[folder] = _File(beside.name, {})
        content = await self._lister.read(beside.name, _MOST_BYTES)
        self._files[folder].rows = await call_in_thread(None, parse_metadata, shown, content)

    def _attributes(self, name: bytes) -> bytes:
        """Returns the attributes of an image, by the nearest metadata file that has a row for it; empty if none has."""
        folder = _folder_of(name)
        while True:
            file = self._files.get(folder)
            found = file.rows.get(name[len(folder) :]) if file else None
            if file and found is not None:
                file.used += 1
                return found
            if not folder:
                return b""
            folder = _folder_of(folder[:-1])

    def _forget(self, folders: list[bytes], passed: PassedOver) -> None:
        """Forgets the metadata of folders that are listed, and counts the rows that no image has."""
        for folder in folders:
            file = self._files.pop(folder)
            for _ in range(len(file.rows) - file.used):
                passed.add("no-image", path_below(self.root, file.name))

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> SampleRef:
        """See `Lister.ref`."""
        ref = self._lister.ref(index, name)
        if extra:
            ref.info = structs.replace(ref.info, attributes=extra)
        else:
            ref.flaws = without_caption("no metadata file has a row for the image")
        return ref


def _folder_of(name: bytes) -> bytes:
    """Returns the folder of a name, with a slash behind it unless it is the root."""
    return name[: name.rfind(b"/") + 1]
