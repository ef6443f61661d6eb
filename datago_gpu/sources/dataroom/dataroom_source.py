"""Lists the images of a Dataroom server: filtered, shared among the ranks, and shuffled if wanted.

Order: the server's, by id. A rank's share is one of the server's partitions if the world size divides its 48 shards;
else gcd(world_size, 48) partitions are used, and the images of each are distributed by their position in it. This, like
any position, requires a source that does not change during an epoch; the server has no snapshots.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from contextlib import aclosing
from functools import partial

from msgspec import Struct

from datago_gpu.config import DataroomSource, LoaderConfig
from datago_gpu.errors import Rejected, SourceError
from datago_gpu.redact import shown_address
from datago_gpu.sources.barren import Barren
from datago_gpu.sources.class_labels import ClassLabels
from datago_gpu.sources.dataroom.api import DataroomApi
from datago_gpu.sources.dataroom.listing import Walk
from datago_gpu.sources.dataroom.pages import ENTRIES_THAT_VOTE, AnyEntry, Entry, OddEntry, usual_dimensions
from datago_gpu.sources.dataroom.parts import Wanted
from datago_gpu.sources.dataroom.random_pages import RandomPages
from datago_gpu.sources.http.http_client import HttpClient, without_query
from datago_gpu.sources.order import RankShare, renumber
from datago_gpu.sources.reference import (
    BAD_ATTRIBUTES,
    Position,
    Refs,
    SampleRef,
    Skipped,
    Tally,
    sample_bytes,
)
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.shuffle import SplitMix64, shuffle_stream
from datago_gpu.sources.tally import Passed, Walked
from datago_gpu.units import MiB

__all__ = ["Dataroom", "Share"]

_SHARDS = 48
"""Shards of the server's index; partitions are equally large if their number divides it."""
_WITH_EMBEDDING = {"coca_embedding__empty": "false"}
_SHUFFLED_BYTES = 256 * MiB
"""The most memory of the entries in the shuffle buffer. Usual entries take a hundredth of that."""
_ENTRIES_A_TURN = 128
"""Entries of a page that are handled before the event loop may run other tasks."""


class Share(Struct, frozen=True):
    """Describes one rank's share: in partition number `partition` of the server's `partitions`, the entries of
    `entries`.

    The shares of all ranks are disjoint and cover everything, whatever the world size.
    """

    partitions: int
    partition: int
    entries: RankShare

    @classmethod
    def of(cls, rank: int, world_size: int) -> Share:
        partitions = math.gcd(world_size, _SHARDS)
        offset, partition = divmod(rank, partitions)
        return cls(partitions, partition, RankShare(offset, world_size // partitions))

    def parameters(self) -> dict[str, str]:
        """Returns the parameters for the server, which accepts 2 partitions or more."""
        if self.partitions == 1:
            return {}
        return {"partitions_count": str(self.partitions), "partition": str(self.partition)}


class Dataroom:
    """The `Source` of source_type "db". Raises ConfigError if no server is named.

    A `cursor` is that of a `Passed`: the listing goes on after the image of that id, and the next entry of the
    partition has that number. The cursor stays valid if the image is removed.
    """

    def __init__(self, config: LoaderConfig, http: HttpClient) -> None:
        assert isinstance(config.source_config, DataroomSource)
        self._source, self._seed = config.source_config, config.seed
        self._rank, self._world_size = config.rank_and_world_size()
        self._share = Share.of(self._rank, self._world_size)
        self._api = DataroomApi(self._source, config.http_config, http)
        self._draws, self._is_cached = config.draws_from_server, config.cache_config.is_on
        self._sized = config.wants_sizes or not self._source.where_names.isdisjoint(("width", "height"))
        self._wanted, self._labels = Wanted(self._source), ClassLabels.by(self._source)
        self._walked = Walked(f"images of {shown_address(self._api.base)}", shuffled=self._source.random_sampling)
        self.tally: Tally = Tally() if self._draws else self._walked
        self._dimensions = 0
        """Length of the embeddings; 0 until it is known."""

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`: nothing."""
        return {}

    @property
    def epoch_samples(self) -> int | None:
        """See `Source.epoch_samples`: not known."""
        return None

    def refs(self, start: Position) -> Refs:
        """See `Source.refs`. The server's random draws cannot be repeated: on a resume, only the numbers go on."""
        if self._draws:
            return self._draw(start)
        return self._shuffle(start) if self._source.random_sampling else self._list(start)

    async def _list(self, start: Position) -> Refs:
        place = Passed.parse(start.cursor)
        position, cursor = place.before, place.cursor
        self._walked.begin(place)
        filters = {**self._source.filters(), **self._share.parameters()}
        page_size = self._source.page_size
        walk = Walk(self._api, filters, page_size=page_size, check=self._source.check_count)
        barren = Barren(self._api.base)
        await self._settle_dimensions()
        async with aclosing(walk.pages(self._shape(), position, place.name)) as pages:
            async for entries in pages:
                usable = False
                for entry in entries:
                    self._walked.add(entry.id.encode("utf-8", "surrogatepass"))
                    index = self._share.entries.index_of(position)
                    if index is None or index < start.index:
                        usable = usable or isinstance(entry, Entry)
                    else:
                        sample = self._ref(entry, index, cursor)
                        usable = usable or isinstance(sample, SampleRef)
                        yield sample
                    position += 1
                    if entry.id:
                        cursor = self._walked.at(entry.id).cursor
                    if not position % _ENTRIES_A_TURN:
                        await asyncio.sleep(0)
                barren.note(len(entries), usable=usable)
        if not position:
            await self._refuse_none()
        self._walked.end()

    async def _shuffle(self, start: Position) -> Refs:
        generator = SplitMix64(self._seed, start.epoch, self._rank)
        listed, index = self._list(Position(start.epoch)), 0
        mixed = shuffle_stream(
            listed,
            self._source.shuffle_buffer,
            generator,
            most_bytes=_SHUFFLED_BYTES,
            size_of=sample_bytes,
            draws_newest=False,
        )
        async with aclosing(mixed) as samples:
            async for sample in samples:
                if index >= start.index:
                    yield renumber(sample, index)
                index += 1

    async def _draw(self, start: Position) -> Refs:
        generator = SplitMix64(self._seed, start.epoch, self._rank, start.index)
        draws = RandomPages(self._api, self._source.filters(), page_size=self._source.page_size, generator=generator)
        index, drawn, barren = start.index, False, Barren(self._api.base)
        await self._settle_dimensions()
        async with aclosing(draws.pages(self._shape())) as pages:
            async for entries in pages:
                drawn = True
                mine = [entry for key, entry in entries if key % self._world_size == self._rank]
                usable = len(mine) < len(entries)
                for entry in mine:
                    sample = self._ref(entry, index, "")
                    usable = usable or isinstance(sample, SampleRef)
                    yield sample
                    index += 1
                    if not index % _ENTRIES_A_TURN:
                        await asyncio.sleep(0)
                barren.note(len(entries), usable=usable)
        if not drawn:
            await self._refuse_none()

    async def _refuse_none(self) -> None:
        """Raises SourceError if no rank gets an image: an empty epoch would pass without an error."""
        filters = self._source.filters()
        count = await self._api.count(filters)
        if count or (count is None and self._world_size > 1):
            return
        names = ", ".join(f"{name}={value}" for name, value in filters.items()) or "none"
        raise SourceError(f"{shown_address(self._api.base)}: no image passes the filters of source_config ({names})")

    def _shape(self) -> dict[str, str]:
        """Returns the parameters that select the fields of a page: only the fields that are used."""
        latents = self._wanted.parameters()
        unused = set() if self._source.require_embeddings else {"coca_embedding"}
        if not latents:
            unused.add("latents")
        if not self._sized:
            unused |= {"width", "height"}
        if not self._is_cached:
            unused.add("image_hash")
        fields = [name for name in Entry.__struct_fields__ if name not in unused]
        return {"fields": ",".join(fields), "page_size": str(self._source.page_size), **latents}

    def _ref(self, entry: AnyEntry, index: int, cursor: str) -> SampleRef | Skipped:
        if isinstance(entry, OddEntry):
            return Skipped(index, entry.id, self._api.base, "bad-entry", entry.problem)
        given = entry.image_direct_url if self._source.require_images else ""
        if given is None or (not given and self._source.require_images):
            return Skipped(index, entry.id, self._api.base, "no-url")
        url = self._api.payload_address(given) if given else ""
        if url is None:
            return Skipped(index, entry.id, without_query(given), "bad-url", "not an http(s) address")
        try:
            details = entry.details()
            embedding = self._embedding(details.embedding)
            parts = self._wanted.parts(details.latents, self._api.payload_address)
        except ValueError as problem:
            return Skipped(index, entry.id, without_query(url), "bad-entry", str(problem))
        except Rejected as problem:
            return Skipped(index, entry.id, without_query(url), problem.reason, problem.detail)
        attributes, unread = entry.checked_attributes()
        label, flaws = None, dict[str, str]()
        if self._source.label:
            label, flaws = self._labels.in_attributes(attributes, self._source.label)
        if unread:
            flaws[BAD_ATTRIBUTES] = unread
        info = SampleInfo(
            entry.id,
            source=entry.source or "",
            attributes=attributes,
            tags=details.tags,
            embedding=embedding,
            duplicate_state=entry.duplicate_state,
            label=label,
        )
        return SampleRef(
            index,
            info,
            url=url,
            parts=parts,
            flaws=flaws,
            cursor=cursor,
            size=entry.size if self._sized else (0, 0),
            renew=partial(self._api.renew, entry.id),
            version=entry.version,
        )

    async def _settle_dimensions(self) -> None:
        """Asks the server for the length of embeddings: the most frequent one among the first images that pass the
        filters.

        The first samples of a run do not decide this: they differ from rank to rank, and after a restart.
        """
        if self._source.require_embeddings and not self._dimensions:
            asked = {"fields": "id,coca_embedding", "page_size": str(ENTRIES_THAT_VOTE)}
            address = self._api.address("images/", {**_WITH_EMBEDDING, **self._source.filters(), **asked})
            self._dimensions = usual_dimensions((await self._api.page(address)).results)

    def _embedding(self, found: list[float]) -> bytes:
        """Returns the embedding of an entry, if wanted. All in a batch have one length: another raises Rejected."""
        if not self._source.require_embeddings:
            return b""
        if not found:
            raise Rejected("no-embedding")
        self._dimensions = self._dimensions or len(found)
        if len(found) != self._dimensions:
            raise Rejected("bad-entry", f"an embedding of {len(found)} numbers, others have {self._dimensions}")
        return array("f", found).tobytes()  # as a list, it takes eight times the memory
