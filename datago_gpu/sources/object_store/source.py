"""Lists the images below a prefix in object storage, in the store's order. Names only; the feeder gets the objects."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

from datago_gpu.config import FileSource, LoaderConfig
from datago_gpu.config.file_names import hidden_part
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.redact import without_query
from datago_gpu.sources.barren import Barren
from datago_gpu.sources.base import Position, Refs, SampleRef, Tally
from datago_gpu.sources.files import Listing, no_images
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.object_store.client import MOST_STORED_PAGES, Stores
from datago_gpu.sources.object_store.s3_listing import ODD_KEY
from datago_gpu.sources.passed_over import PassedOver, noted
from datago_gpu.sources.permutation import Shuffle
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.tally import Passed, Walked, Whole

__all__ = ["Bucket"]


class Bucket:
    """The `Source` of source_type "file" with a root such as s3://bucket/photos.

    Order: that of the store, by key; listed one page at a time while samples load. A sample's id is its key below the
    root. A `cursor` is that of a `Passed`: its name is the key below the root or, without a digest, the whole key.
    """

    def __init__(self, config: LoaderConfig) -> None:
        source = config.source_config
        assert isinstance(source, FileSource)
        self._source, self._selection, self._shuffle = source, source.selection, Shuffle(config, source.rank_split)
        self._root = source.root_path.rstrip("/")
        scheme, _, rest = self._root.partition("://")
        bucket, _, prefix = rest.partition("/")
        self._bucket, self._prefix = f"{scheme}://{bucket}/", f"{prefix}/" if prefix else ""
        self._rank, self._world_size = config.rank_and_world_size()
        self._stores = Stores(config.http_config, source.storage_options)
        self._listing: Listing | None = None
        self._passed_over = PassedOver()
        self._is_noted = bool(self._rank)  # one rank reports it for all
        what = f"images below {self._shown()}"
        self._walked, self._whole = Walked(what), Whole(what)
        self.tally: Tally = self._whole if source.random_sampling else self._walked

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`."""
        return self._passed_over.counts

    def refs(self, start: Position) -> Refs:
        """See `Source.refs`. Raises SourceError if the prefix cannot be listed or contains no image."""
        return self._shuffled(start) if self._source.random_sampling else self._listed(start)

    async def _listed(self, start: Position) -> Refs:
        place = Passed.parsed(start.cursor)
        self._walked.begin(place)
        position, cursor = place.before, place.cursor if place.before else ""
        async with aclosing(self._pages(self._key(place))) as pages:
            async for keys in pages:
                for key in keys:
                    index, other_rank = divmod(position - self._rank, self._world_size)
                    self._walked.add(self._name(key).encode())
                    if not other_rank and index >= start.index:
                        yield self._ref(index, key, cursor)
                    position += 1
                    cursor = self._walked.at(key if place.digest is None else self._name(key)).cursor
        if not position:
            raise self._no_images()
        self._walked.end()

    async def _shuffled(self, start: Position) -> Refs:
        if self._listing is None:
            listing = Listing()
            async with aclosing(self._pages("")) as pages:
                async for keys in pages:
                    listing.extend(list(map(os.fsencode, keys)))
                    self._whole.extend([self._name(key).encode() for key in keys])
            if not len(listing):
                raise self._no_images()
            self._whole.end()
            self._listing = listing
        mine = await call_in_thread(None, self._shuffle.share, len(self._listing), start.epoch)
        for index in range(start.index, len(mine)):
            yield self._ref(index, self._listing[int(mine[index])], "")

    async def _pages(self, after: str) -> AsyncGenerator[list[str], None]:
        """Yields the keys of the images, some at a time."""
        passed = PassedOver()
        try:
            barren = Barren(self._shown(), MOST_STORED_PAGES)
            async with aclosing(self._stores.listed(self._root, after)) as pages:
                async for page in pages:
                    keys = [each.key for each in page if self._takes(each.key, passed)]
                    yield keys
                    barren.note(len(page), usable=bool(keys))
        except HttpFailure as failure:
            hint = "" if failure.reason == ODD_KEY else "; check source_config.root_path and the credentials"
            text = f"cannot list {failure}{hint}"
            raise SourceError(self._source.redacted(text)) from None
        if not after:
            self._passed_over = passed
            self._note(passed)

    def _takes(self, key: str, passed: PassedOver) -> bool:
        """Returns whether a key is that of an image. Counts other keys, except folder markers."""
        if not self._selection.takes(key):
            if not key.endswith("/"):
                passed.add("extension", key)
            return False
        if not self._selection.hidden and hidden_part(key.removeprefix(self._prefix).split("/")):
            passed.add("hidden", key)
            return False
        return True

    def _note(self, passed: PassedOver) -> None:
        if not self._is_noted:
            self._is_noted = True
            noted(passed, self._prefix, self._shown())

    def _no_images(self) -> SourceError:
        return no_images(self._prefix, self._shown(), self._selection, self._passed_over)

    def _name(self, key: str) -> str:
        """Returns the key below the root, as bytes."""
        return key.removeprefix(self._prefix)

    def _key(self, place: Passed) -> str:
        """Returns the key after which a listing goes on; "" for the beginning."""
        return place.name if place.digest is None or not place.before else self._prefix + place.name

    def _ref(self, index: int, key: str, cursor: str) -> SampleRef:
        return SampleRef(index, SampleInfo(self._name(key), source="filesystem"), url=self._bucket + key, cursor=cursor)

    def _shown(self) -> str:
        return without_query(self._root)
