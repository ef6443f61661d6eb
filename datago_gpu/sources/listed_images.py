"""Yields the images below a root, in a folder or in object storage, in the order of their listing or shuffled.

Reads names only; the feeder reads the files and gets the objects.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import repeat
from typing import NamedTuple, Protocol

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.config.file_names import Selection
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.order import RankShare, ShuffledShare
from datago_gpu.sources.passed_over import PassedOver, log_passed_over
from datago_gpu.sources.reference import Position, Refs, SampleRef, Skipped, Tally
from datago_gpu.sources.tally import Passed, Walked, Whole

__all__ = ["Beside", "Images", "Lister", "Page", "no_images"]


class Beside(NamedTuple):
    """A file that is not an image, and says something about images. tag: as in `Page.tags`, "" for a local file."""

    name: bytes
    tag: str = ""


class Page(NamedTuple):
    """Holds the names of some images, in their order."""

    names: list[bytes]
    """Paths below the root."""
    skipped: Skipped | None = None
    """A folder that cannot be read."""
    tags: Sequence[str] = ()
    """For each name, what identifies the version of the object: see `Excerpt.tag`. Of buckets only."""
    besides: Sequence[Beside] = ()
    """The files among them that are captions or metadata: see `Selection.captions`."""
    extras: Sequence[bytes] = ()
    """For each name, what `Lister.ref` needs to know besides; empty if it needs nothing."""

    @property
    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields each name with its extra."""
        return zip(self.names, self.extras or repeat(b""), strict=False)


class Lister(Protocol):
    """Lists the images below a root.

    root: the path of the root, as the examples in a `PassedOver` begin. shown: the root for messages. resumes: whether
    a listing can go on behind a name.
    """

    root: str
    shown: str
    resumes: bool

    def pages(self, after: bytes, passed: PassedOver) -> AsyncGenerator[Page, None]:
        """Yields all images, or if it `resumes` those behind that name. Counts other files in `passed`. Raises
        SourceError.
        """
        ...

    def ref(self, index: int, name: bytes, extra: bytes = b"") -> SampleRef:
        """Returns the sample for the image of that name. extra: see `Page.extras`."""
        ...

    async def folders(self) -> list[bytes]:
        """Returns the names of the folders in the root, in any order. Raises SourceError."""
        ...

    async def classes(self) -> list[str] | None:
        """Returns the names of the classes, in the order of their labels; None if there are no labels."""
        ...

    async def read(self, name: bytes, most: int) -> bytes:
        """Returns the content of a file of at most so many bytes. Raises SourceError."""
        ...


class Images:
    """The `Source` of source_type "file".

    Ranks take every world_size-th image of the listing. Or, with a shuffle, an epoch is a permutation of the whole
    listing, which is read first. A `cursor` is that of a `Passed`, with the last name; or, in states of older packages,
    which had no digest, with the whole path.
    """

    def __init__(self, config: LoaderConfig, lister: Lister) -> None:
        source = config.source_config
        assert isinstance(source, FileSource)
        self._lister, self._selection = lister, source.selection
        self._share = RankShare.of(config)
        self._shuffled_share = ShuffledShare(config, source.rank_split)
        self._is_shuffled = source.random_sampling
        self._listing: Names | None = None
        self._extras, self._versions = Names(), Names()
        self._keeps_versions = config.cache_config.is_on
        self._passed_over = PassedOver()
        self._listed: int | None = None
        """Number of images in the last complete listing, of all ranks."""
        self._is_noted = bool(self._share.rank)  # one rank reports it for all
        what = f"images below {lister.shown}"
        self._walked, self._whole = Walked(what), Whole(what)
        self.tally: Tally = self._whole if self._is_shuffled else self._walked

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`."""
        return self._passed_over.counts

    @property
    def epoch_samples(self) -> int | None:
        """See `Source.epoch_samples`: known once all names have been listed."""
        return None if self._listed is None else len(self._share.select(range(self._listed)))

    async def classes(self) -> list[str] | None:
        """Returns the names of the classes, in the order of their labels; None if there are no labels."""
        return await self._lister.classes()

    def refs(self, start: Position) -> Refs:
        """See `Source.refs`. Raises SourceError where the root is missing, unreadable or holds no image."""
        return self._in_shuffled_order(start) if self._is_shuffled else self._in_listed_order(start)

    async def count(self) -> int:
        """Returns the number of this rank's images. Lists all names for it. Raises SourceError."""
        count = 0
        async with aclosing(self._pages(Passed())) as pages:
            async for page in pages:
                count += len(page.names)
        return len(self._share.select(range(count)))

    async def _in_listed_order(self, start: Position) -> Refs:
        place = self._place_of(start.cursor)
        self._walked.begin(place)
        position, last = place.before, place.name.encode()
        async with aclosing(self._pages(place)) as pages:
            async for page in pages:
                if page.skipped:
                    yield page.skipped
                for (name, extra), version in zip(page.pairs, page.tags or repeat(""), strict=False):
                    index = self._share.index_of(position)
                    if index is None or index < start.index:
                        self._walked.add(name)
                    else:
                        cursor = self._cursor(last) if last and self._lister.resumes else ""
                        self._walked.add(name)
                        sample = self._lister.ref(index, name, extra)
                        sample.cursor, sample.version = cursor, version
                        yield sample
                    position, last = position + 1, name
        self._walked.end()

    def _place_of(self, cursor: str) -> Passed:
        """Returns the place where the listing goes on."""
        place = Passed.parse(cursor) if self._lister.resumes else Passed()
        return place if place.digest is not None else place._replace(name=place.name.removeprefix(self._lister.root))

    def _cursor(self, last: bytes) -> str:
        """Returns the cursor of the place behind the name `last`, which the listing has reached."""
        place = self._walked.at(last.decode())
        return (place if place.digest is not None else place._replace(name=self._lister.root + place.name)).cursor

    async def _in_shuffled_order(self, start: Position) -> Refs:
        if self._listing is None:
            listing, extras, versions = Names(), Names(), Names()
            async with aclosing(self._pages(Passed())) as pages:
                async for page in pages:
                    if page.skipped:
                        yield page.skipped
                    listing.extend(page.names)
                    extras.extend(page.extras)
                    if self._keeps_versions:
                        versions.extend(tag.encode("utf-8", "surrogateescape") for tag in page.tags)
                    self._whole.extend(page.names)
            self._whole.end()
            self._listing, self._extras, self._versions = listing, extras, versions
        mine = await call_in_thread(None, self._shuffled_share.numbers, len(self._listing), start.epoch)
        for index in range(start.index, len(mine)):
            number = int(mine[index])
            sample = self._lister.ref(index, self._listing[number], self._extras[number] if self._extras else b"")
            if self._versions:
                sample.version = self._versions[number].decode("utf-8", "surrogateescape")
            yield sample

    async def _pages(self, start: Passed) -> AsyncGenerator[Page, None]:
        """Yields the lister's pages. Raises SourceError if there is no image at all."""
        images, passed = start.before, PassedOver()
        async with aclosing(self._lister.pages(start.name.encode(), passed)) as pages:
            async for page in pages:
                images += len(page.names)
                yield page
        self._listed = images
        if not start.before:
            self._passed_over = passed
        if not images:
            raise no_images(self._lister.root, self._lister.shown, self._selection, passed)
        if not start.before and not self._is_noted:
            self._is_noted = True
            log_passed_over(passed, self._lister.root, self._lister.shown)


def no_images(root: str, shown: str, selection: Selection, passed: PassedOver) -> SourceError:
    """Returns the error for a root without images. shown: the root for messages."""
    told = passed.description(root)
    others = f"; passed over: {told}" if told else ""
    return SourceError(f"no images under {shown}: looked for {selection.description} in it and its subfolders{others}")


class Names:
    """Stores many names in little memory: in one block of bytes, since a million separate objects take 150 MB."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q")

    def extend(self, names: Iterable[bytes]) -> None:
        """Adds names."""
        for name in names:
            self._text += name
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        begin = self._ends[index - 1] if index else 0
        return bytes(self._text[begin : self._ends[index]])
