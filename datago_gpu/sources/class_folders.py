"""Labels of images by their folders, as in torchvision's ImageFolder: the folders in the root are the classes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import structs

from datago_gpu.errors import SourceError
from datago_gpu.redact import printable
from datago_gpu.sources.around import Around, path_below
from datago_gpu.sources.listed_images import Lister, Page
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import SampleRef, utf8_text

__all__ = ["Labelled"]

log = logging.getLogger("datago_gpu")

_NAMED = 5
"""The most classes that a message names."""


class Labelled(Around):
    """A `Lister` of the images that another one lists in class folders. Other images are left out.

    names: of the classes in the order of their labels; empty: those of all folders, sorted as Python sorts them.
    """

    def __init__(self, lister: Lister, names: list[str]) -> None:
        super().__init__(lister)
        self._given = names
        self._names: list[str] = []
        self._numbers: dict[bytes, int] = {}
        """Name of each class folder -> its label."""

    async def classes(self) -> list[str]:
        """See `Lister.classes`. Raises SourceError if there is no class folder."""
        if not self._names:
            folders = sorted(await self._lister.folders(), key=_decode)
            found = [utf8_text(_decode(folder)) for folder in folders]
            names = self._given or found
            label = {name: number for number, name in enumerate(names)}
            labels = [label.get(name) for name in found] if self._given else range(len(folders))
            self._numbers = {
                folder: number for folder, number in zip(folders, labels, strict=True) if number is not None
            }
            if not self._numbers:
                raise self._no_classes(names)
            self._names = names
        return self._names

    async def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:
        """See `Lister.pages`."""
        names = await self.classes()
        seen = set[int]()
        async with aclosing(self._lister.pages(after, passed)) as pages:
            async for page in pages:
                yield self._within(page, seen, passed)
        if not after and len(seen) < len(names):
            self._tell_empty([number for number in range(len(names)) if number not in seen])

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> SampleRef:
        """See `Lister.ref`. `pages` has been called before."""
        ref = self._lister.ref(index, name, extra)
        ref.info = structs.replace(ref.info, label=self._number(name))
        return ref

    def _number(self, name: bytes) -> int | None:
        """Returns the label of an image; None if it lies in no class folder."""
        folder, slash, _ = name.partition(b"/")
        return self._numbers.get(folder) if slash else None

    def _within(self, page: Page, seen: set[int], passed: PassedOver) -> Page:
        """Returns the images of a page that lie in class folders. Adds their labels to `seen`."""
        labels = [self._number(name) for name in page.names]
        seen.update(label for label in labels if label is not None)
        if None not in labels:
            return page
        kept = []
        for at, label in enumerate(labels):
            if label is None:
                passed.add("no-class", path_below(self.root, page.names[at]))
            else:
                kept.append(at)
        return page._replace(
            names=[page.names[at] for at in kept],
            tags=[page.tags[at] for at in kept] if page.tags else (),
            extras=[page.extras[at] for at in kept] if page.extras else (),
        )

    def _no_classes(self, names: list[str]) -> SourceError:
        wanted = f", such as {printable(names[0])!r}" if self._given else ""
        return SourceError(
            f"no class folders{wanted} in {self.shown}: with labels 'folder', the folders in root_path are the classes"
        )

    def _tell_empty(self, empty: list[int]) -> None:
        there = set(self._numbers.values())
        self._tell("no folder has the name of these classes", [number for number in empty if number not in there])
        self._tell("classes without images", [number for number in empty if number in there])

    def _tell(self, what: str, numbers: list[int]) -> None:
        if not numbers:
            return
        names = [repr(printable(self._names[number])) for number in numbers]
        shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        log.warning("%s below %s (%d of %d): %s", what, self.shown, len(names), len(self._names), shown)


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
