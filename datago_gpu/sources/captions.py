"""Captions in files beside the images: NAME.txt or NAME.json beside NAME.jpg. The feeder reads them with the images.

The listing says which images have a caption, so that no request is made for one that does not exist.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from datago_gpu.sources.around import Around, path_below
from datago_gpu.sources.listed_images import Page
from datago_gpu.sources.passed_over import PassedOver
from datago_gpu.sources.reference import SampleRef

__all__ = ["NO_CAPTION", "Captioned", "caption_of", "without_caption"]

NO_CAPTION = "no-caption"
"""Reason of a flaw: the image has no caption."""


def caption_of(image: str, ending: str) -> str:
    """Returns the path or address of the caption beside an image."""
    return image[: image.rindex(".")] + ending


def without_caption(why: str = "no caption belongs to the image") -> dict[str, str]:
    """Returns the flaw of a sample without a caption."""
    return {NO_CAPTION: why}


class _Caption(NamedTuple):
    """A caption that images of its stem may have. ending: of its name."""

    ending: bytes
    tag: str


class Captioned(Around):
    """A `Lister` of the images of another one, each with the place of its caption. Captions without an image are
    counted.

    An image's extra is the ending of its caption's name; empty if it has none. Its tag is joined to that of its
    caption.
    """

    async def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:
        """See `Lister.pages`."""
        pairs = _Pairs(self.root, passed)
        begin = _first_of_stem(after) if self.resumes else b""
        async with aclosing(self._lister.pages(begin, passed)) as pages:
            async for page in pages:
                if page.skipped:
                    yield page
                    continue
                pairs.add(page)
                yield pairs.take(after, is_whole=not self.resumes)
        yield pairs.take(after, is_whole=True)

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> SampleRef:
        """See `Lister.ref`."""
        ref = self._lister.ref(index, name)
        if extra:
            ref.caption = caption_of(ref.path or ref.url, extra.decode())
        else:
            ref.flaws = without_caption()
        return ref


class _Pairs:
    """Joins images and captions of the same stem, which is the name up to its last dot.

    A listing by keys has the names of a stem close together, but not always on one page: images are held back until all
    names of their stem are known. root, passed: for captions without an image.
    """

    def __init__(self, root: str, passed: PassedOver) -> None:
        self._root, self._passed = root, passed
        self._images: list[tuple[bytes, str]] = []
        """Name and tag of each image that is held back."""
        self._captions: dict[bytes, _Caption] = {}
        self._used = set[bytes]()
        """The stems of captions that an image has."""
        self._last = b""
        """The last name so far."""

    def add(self, page: Page) -> None:
        """Adds what follows in the listing."""
        self._images += zip(page.names, page.tags or [""] * len(page.names), strict=True)
        for beside in page.besides:
            stem, dot, ending = beside.name.rpartition(b".")
            if stem in self._captions:
                self._pass_over(beside.name)
            else:
                self._captions[stem] = _Caption(dot + ending, beside.tag)
        self._last = max([self._last, *page.names[-1:], *(beside.name for beside in page.besides[-1:])])

    def take(self, after: bytes, *, is_whole: bool) -> Page:
        """Returns the images behind the name `after` whose captions are known, and forgets what is not needed any more.

        is_whole: no name that was added has its stem in common with one that is still to come.
        """
        count = len(self._images) if is_whole else self._known()
        taken, self._images = self._images[:count], self._images[count:]
        names, tags, extras = list[bytes](), list[str](), list[bytes]()
        for name, tag in taken:
            stem = _stem(name)
            caption = self._captions.get(stem)
            if caption:
                self._used.add(stem)
            if name > after:
                names.append(name)
                extras.append(caption.ending if caption else b"")
                tags.append(f"{tag}+{caption.tag}" if caption and caption.tag else tag)
        self._forget(is_whole=is_whole)
        return Page(names, tags=tags, extras=extras)

    def _known(self) -> int:
        """Returns the number of images at the front whose stems are complete."""
        for at, (name, _) in enumerate(self._images):
            if self._is_open(_stem(name)):
                return at
        return len(self._images)

    def _is_open(self, stem: bytes) -> bool:
        return self._last.startswith(stem + b".")

    def _forget(self, *, is_whole: bool) -> None:
        """Forgets captions that no image can have any more, and counts those that none had."""
        needed = {_stem(name) for name, _ in self._images}
        kept = {}
        for stem, caption in self._captions.items():
            if not is_whole and (stem in needed or self._is_open(stem)):
                kept[stem] = caption
            elif stem not in self._used:
                self._pass_over(stem + caption.ending)
        self._captions = kept
        self._used &= kept.keys()

    def _pass_over(self, name: bytes) -> None:
        self._passed.add("no-image", path_below(self._root, name))


def _stem(name: bytes) -> bytes:
    return name[: name.rindex(b".")]


def _first_of_stem(name: bytes) -> bytes:
    """Returns a name before all names whose stem an image behind `name` may have."""
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + base.partition(b".")[0]
