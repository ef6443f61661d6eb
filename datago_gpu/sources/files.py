"""Lists the images of a folder in the order of their names. Reads names only; the feeder reads the files."""

from __future__ import annotations

import os
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.config.file_names import Selection
from datago_gpu.config.local_paths import shown_with
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.base import Position, Refs, SampleRef, Tally, shown_path, utf8_text
from datago_gpu.sources.folders import Listed, walk
from datago_gpu.sources.local import Patience
from datago_gpu.sources.passed_over import PassedOver, noted
from datago_gpu.sources.permutation import Shuffle
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.tally import Walked, Whole

__all__ = ["Files", "Listing", "no_images"]


class Files:
    """The `Source` of source_type "file".

    Order: the images of a folder by name, then its subfolders by name, each the same way. A sample's id is its path
    below the root, with "/" between folders; bytes of a name that are not UTF-8 appear as "\\xNN".
    """

    def __init__(self, config: LoaderConfig) -> None:
        assert isinstance(config.source_config, FileSource)
        self._root = config.absolute(config.source_config.root_path)
        self._shown = shown_with(shown_path(self._root), config.source_config.root_path)
        self._shuffled = config.source_config.random_sampling
        self._shuffle = Shuffle(config, config.source_config.rank_split)
        self._selection = config.source_config.selection
        self._patience = Patience(config.http_config)
        self._rank, self._world_size = config.rank_and_world_size()
        self._listing: Listing | None = None
        self._passed_over = PassedOver()
        self._is_noted = bool(self._rank)  # one rank reports it for all
        self._below = len(os.fsencode(os.path.join(self._root, "")))
        """Bytes of a path before its part below the root."""
        what = f"images below {self._shown}"
        self._walked, self._whole = Walked(what), Whole(what)
        self.tally: Tally = self._whole if self._shuffled else self._walked

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`."""
        return self._passed_over.counts

    def refs(self, start: Position) -> Refs:
        """See `Source.refs`. Raises SourceError where the root is missing, unreadable or holds no image."""
        return self._refs_shuffled(start) if self._shuffled else self._refs_walked(start.index)

    async def _refs_walked(self, start: int) -> Refs:
        position = 0
        self._walked.begin()
        async with aclosing(self._walk()) as folders:
            async for folder in folders:
                if folder.unreadable:
                    yield folder.unreadable
                for path in folder.images:
                    self._walked.add(os.fsencode(path)[self._below :])
                    index, other_rank = divmod(position - self._rank, self._world_size)
                    if not other_rank and index >= start:
                        yield self._ref(index, path)
                    position += 1
        self._walked.end()

    async def _refs_shuffled(self, start: Position) -> Refs:
        if self._listing is None:
            listing = Listing()
            async with aclosing(self._walk()) as folders:
                async for folder in folders:
                    if folder.unreadable:
                        yield folder.unreadable
                    paths = list(map(os.fsencode, folder.images))
                    listing.extend(paths)
                    self._whole.extend([path[self._below :] for path in paths])
            self._whole.end()
            self._listing = listing
        mine = await call_in_thread(None, self._shuffle.share, len(self._listing), start.epoch)
        for index in range(start.index, len(mine)):
            yield self._ref(index, self._listing[int(mine[index])])

    async def _walk(self) -> AsyncGenerator[Listed, None]:
        """Yields the content of each folder. Raises SourceError if no folder holds an image."""
        images, passed = 0, PassedOver()
        async with aclosing(walk(self._root, self._shown, self._patience, self._selection)) as folders:
            async for folder in folders:
                images += len(folder.images)
                passed.join(folder.passed_over)
                yield folder
        self._passed_over = passed
        if not images:
            raise no_images(self._root, self._shown, self._selection, passed)
        if not self._is_noted:
            self._is_noted = True
            noted(passed, self._root, self._shown)

    def _ref(self, index: int, path: str) -> SampleRef:
        name = utf8_text(os.path.relpath(path, self._root))
        return SampleRef(index, SampleInfo(name, source="filesystem"), path=path)


def no_images(root: str, shown: str, selection: Selection, passed: PassedOver) -> SourceError:
    """Returns the error for a root without images. shown: the root for messages."""
    told = passed.told(root)
    others = f"; passed over: {told}" if told else ""
    return SourceError(f"no images under {shown}: looked for {selection.told} in it and its subfolders{others}")


class Listing:
    """Stores many paths in little memory: in one block of bytes, since a million separate strings take 150 MB."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q")

    def extend(self, paths: list[bytes]) -> None:
        """Adds paths, encoded by `os.fsencode`."""
        for path in paths:
            self._text += path
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        begin = self._ends[index - 1] if index else 0
        return os.fsdecode(bytes(self._text[begin : self._ends[index]]))
