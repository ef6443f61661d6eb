"""Streams WebDataset shards, unpacks them and yields their samples in a fixed order, whatever arrives first.

Order: the shards as listed, or shuffled anew for each epoch, and within a shard the samples in their stored order; of
`interleave` shards at a time, one sample of each in turn. With a shuffle, samples pass through a shuffle buffer. Ranks
take every world_size-th shard. If there are fewer shards than ranks, all ranks read all shards and share the samples of
each; an unreadable part of one shard does not change a rank's share of the others. With `rank_split` "listed", ranks
share the shards as listed, and each rank shuffles its own; if there are fewer shards than ranks, only samples are
shuffled.

Memory: `buffer_mb` for samples read ahead; one sample that is waited for; 1 MiB for each downloading shard (in object
storage also the parts in flight, 4 of 4 MiB); with a shuffle, `buffer_mb` again. For zstd and xz, 8 MiB for each
downloading shard; for larger windows, `buffer_mb` in all, and one window of 128 MiB for each shard whose turn it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from msgspec import Struct

from datago_gpu.config import LoaderConfig
from datago_gpu.config.shards import WebDatasetSource
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.done_ranges import DoneRanges
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.local import Patience
from datago_gpu.sources.object_store.stores import Stores, is_stored
from datago_gpu.sources.order import RankShare, ShuffledShare, renumber
from datago_gpu.sources.reference import PartlyDone, Position, Refs, SampleRef, Skipped, printable_path, sample_bytes
from datago_gpu.sources.shuffle import SplitMix64, permutation, shuffle_stream
from datago_gpu.sources.tally import Whole
from datago_gpu.sources.webdataset.budget import Channel
from datago_gpu.sources.webdataset.done_shards import (
    DONE,
    ShardCounts,
    ShardShare,
    Turn,
    plan_in_order,
    plan_shuffled,
)
from datago_gpu.sources.webdataset.grouping import Collector
from datago_gpu.sources.webdataset.readahead import ReadAhead
from datago_gpu.sources.webdataset.shard_list import Shard, authorization, list_shards
from datago_gpu.sources.webdataset.shard_names import lengths_of, names_of
from datago_gpu.sources.webdataset.shard_reader import OpenShard, Supply
from datago_gpu.sources.webdataset.shard_turns import Loss, SampleEstimate, TakenTurn, reason_and_detail
from datago_gpu.sources.webdataset.windows import Windows
from datago_gpu.units import MiB

if TYPE_CHECKING:
    from datago_gpu.sources.cache.cache_folder import CacheFolder
    from datago_gpu.sources.cache.payload_cache import ShardStream

__all__ = ["WebDataset"]

_PIPE_BYTES = 4 * MiB
"""The most bytes of each shard between the network and the thread that unpacks it."""

_SAY_WHAT_TO_DO = frozenset(("proxy", "no-credentials", "http-301", "tls"))
"""Reasons whose details need no further hint."""


class WebDataset:
    """The `Source` of source_type "webdataset".

    A `cursor` is "SHARD:INDEX": shard number SHARD of this rank's order of the epoch begins with this rank's sample
    number INDEX; with `interleave`, the shards that take turns with it do so together. With a shuffle buffer there is
    no cursor: the source counts from the beginning. In both cases shards are not opened if all of their samples are
    known to be done (see `done_shards`).
    """

    def __init__(self, config: LoaderConfig, http: HttpClient, cache: CacheFolder | None = None) -> None:
        """cache: keeps the shards that are downloaded; None if none are kept."""
        assert isinstance(config.source_config, WebDatasetSource)
        self._config, self._source, self._http = config, config.source_config, http
        self._share = RankShare.of(config)
        self._patience = Patience(config.http_config)
        self._usual = SampleEstimate()
        self._shards: list[Shard] | None = None
        self.tally = Whole("shards")
        self._stores: Stores | None = None
        self._cache = cache.of_source(config) if cache else None

    @property
    def passed_over(self) -> dict[str, int]:
        """See `Source.passed_over`: nothing."""
        return {}

    @property
    def epoch_samples(self) -> int | None:
        """See `Source.epoch_samples`: not known."""
        return None

    def refs(self, start: Position) -> Refs:
        """See `Source.refs`. Raises SourceError if no shard can be read."""
        return self._shuffle(start) if self._source.random_sampling else self._walk(start)

    async def _prepare(self, start: Position) -> _Epoch:
        """Lists the shards, and works out which of them must be opened."""
        shards, source = await self._list_shards(), self._source
        split = len(shards) < self._share.world_size
        mine = self._common_order(shards, start.epoch) if split else self._own_order(shards, start.epoch)
        share = ShardShare(*(self._share.rank, self._share.world_size) if split else (0, 1), len(mine))
        known = start if isinstance(start, PartlyDone) and not self.tally.has_changed else PartlyDone()
        counts, done = ShardCounts(known.samples), DoneRanges(known.done)
        self.tally.note_samples(counts.text)
        if source.random_sampling:
            generator = self._generator(start.epoch)
            turns = await plan_shuffled(counts, share, source.interleave, source.shuffle_buffer, generator, done)
            return _Epoch(mine, share, counts, turns, begun=bool(counts.text))
        first, index = _place_of(start.cursor)
        turns = list(plan_in_order(counts, share, source.interleave, first, index, done))
        return _Epoch(mine, share, counts, turns, begun=first > 0 or bool(counts.text))

    def _generator(self, epoch: int) -> SplitMix64:
        return SplitMix64(self._config.seed, epoch, self._share.rank)

    async def _shuffle(self, start: Position) -> Refs:
        """Yields the samples as the shuffle buffer draws them."""
        epoch = await self._prepare(start)

        def spoil() -> None:
            epoch.counts.spoil()
            self.tally.note_samples("")

        mixed = shuffle_stream(
            self._walk(Position(start.epoch), epoch),
            self._source.shuffle_buffer,
            self._generator(start.epoch),
            most_bytes=self._source.buffer_mb * MiB,
            size_of=_bytes_of,
            draws_newest=True,
            passes=_has_no_number,
            overflows=spoil,
        )
        index = 0
        async with aclosing(mixed) as samples:
            async for sample in samples:
                if _has_no_number(sample):
                    yield sample
                    continue
                if index >= start.index and sample is not DONE:
                    yield renumber(sample, index)
                index += 1

    async def _walk(self, start: Position, epoch: _Epoch | None = None) -> Refs:
        """Yields the samples from number `start.index` on, as the shards take turns.

        With a shuffle, yields `DONE` for the samples of shards that are not opened.
        """
        epoch = epoch or await self._prepare(start)
        keeps_done, seen, index = self._source.random_sampling, epoch.begun, 0
        lost: Exception | None = None
        async with aclosing(self._open_ahead(epoch.to_open()).turns(epoch.openings())) as openings:
            for turn in epoch.turns:
                taken = TakenTurn(turn, await anext(openings), epoch.share)
                index = index if turn.index is None else turn.index
                cursor = f"{turn.first}:{index}"
                async with aclosing(taken.samples()) as samples:
                    async for sample in samples:
                        if isinstance(sample, Loss):
                            lost = sample.error
                            yield self._lose(epoch, sample, seen=seen or taken.has_begun)
                            continue
                        if sample is DONE:
                            if keeps_done:
                                yield sample
                        elif index >= start.index:
                            yield renumber(sample, index, cursor)
                        index += 1
                seen = seen or taken.has_begun
                self._note_counts(epoch, taken)
        if not seen:
            self._refuse(epoch.shards, lost)

    def _note_counts(self, epoch: _Epoch, taken: TakenTurn) -> None:
        for number, count in taken.counts():
            epoch.counts.note(number, count)
            if count is not None:
                self._usual.note(count)
        self.tally.note_samples(epoch.counts.text)

    def _open_ahead(self, shards: list[Shard]) -> ReadAhead:
        concurrent, capacity = self._source.concurrent_downloads, self._source.buffer_mb * MiB
        piped, windows = max(1, min(_PIPE_BYTES, capacity // concurrent // 2)), Windows(capacity)

        def opener(shard: Shard, channel: Channel[SampleRef | Skipped], arrived: Callable[[], None]) -> OpenShard:
            collector = Collector(self._config, shard.shown)
            return OpenShard(
                shard.address, self._supply(shard), collector, channel, piped, self._patience, windows, arrived
            )

        capacity -= concurrent * piped
        return ReadAhead(shards, opener, concurrent=concurrent, capacity=capacity, windows=windows)

    def _supply(self, shard: Shard) -> Supply | None:
        """Returns the function that downloads the shard's bytes, or reads them from the cache; None for a local
        shard."""
        download: ShardStream
        if "://" not in shard.address:
            return None
        if is_stored(shard.address):
            download = partial(self._storage().stream, shard.address)
        else:
            headers = authorization(self._source.auth_token, shard.login) if shard.own else None
            download = partial(self._http.stream, shard.address, headers=headers)
        return partial(self._cache.stream, shard.address, shard.version, download) if self._cache else download

    def _storage(self) -> Stores:
        if self._stores is None:
            self._stores = Stores(self._config.http_config, self._source.storage_options)
        return self._stores

    async def _list_shards(self) -> list[Shard]:
        """Returns all shards. They are listed only once."""
        if self._shards is None:
            shards = await list_shards(self._config, self._source, self._http, self._storage)
            self.tally.extend(names_of(shards))
            self.tally.end(await call_in_thread(None, lengths_of, shards))
            self._shards = shards
        return self._shards

    def _common_order(self, shards: list[Shard], epoch: int) -> list[Shard]:
        """Returns all shards in an order that is the same on all ranks, since each takes samples of all of them."""
        if not self._source.random_sampling or self._source.rank_split == "listed":
            return shards
        return [shards[number] for number in permutation(len(shards), self._config.seed, epoch)]

    def _own_order(self, shards: list[Shard], epoch: int) -> list[Shard]:
        """Returns the shards that only this rank takes, in the order of an epoch."""
        if not self._source.random_sampling:
            return list(self._share.select(shards))
        mine = ShuffledShare(self._config, self._source.rank_split)
        return [shards[number] for number in mine.numbers(len(shards), epoch)]

    def _lose(self, epoch: _Epoch, loss: Loss, *, seen: bool) -> Skipped:
        """Returns the skip for the rest of a shard. Raises SourceError if its server is down, or if no sample was seen
        yet and no other shard can be accessed either."""
        error = loss.error
        if not seen and isinstance(error, HttpFailure) and _of_access(error):
            self._refuse(epoch.shards, error)
        shard, missing = epoch.shards[loss.number], self._usual.left_of(loss.taken) // epoch.share.ranks
        reason, detail = reason_and_detail(error)
        where = self._source.redacted(printable_path(shard.shown))
        detail = self._source.redacted(detail)
        if isinstance(error, HttpFailure) and error.down:
            raise SourceError(f"{where}: {detail or reason}; {error.verdict}")
        return Skipped(-1, "", where, reason, detail, count=max(1, missing))

    def _refuse(self, shards: list[Shard], lost: Exception | None) -> NoReturn:
        """Raises SourceError: no sample was read at all."""
        first = self._source.redacted(printable_path(shards[0].shown) if shards else self._source.url)
        if lost is None:
            raise SourceError(f"no samples in {len(shards)} shards, the first of which is {first}")
        reason, detail = reason_and_detail(lost)
        hint = "" if reason in _SAY_WHAT_TO_DO else "; check source_config.url"
        if isinstance(lost, HttpFailure) and lost.status in (401, 403):
            hint = "; check source_config.auth_token or the credentials"
        why = f"{reason} ({detail})" if detail else reason
        text = f"none of {len(shards)} shards could be read, the last failed with {why}: {first}{hint}"
        raise SourceError(self._source.redacted(text))


class _Epoch(Struct, frozen=True):
    """Holds what a walk through the shards needs.

    shards: this rank's, in the order of the epoch. begun: whether an earlier run has read samples of this epoch.
    """

    shards: list[Shard]
    share: ShardShare
    counts: ShardCounts
    turns: list[Turn]
    begun: bool

    def to_open(self) -> list[Shard]:
        """Returns the shards to open, in the order of their turns."""
        places = ((turn.first + place, count) for turn in self.turns for place, count in enumerate(turn.counts))
        return [self.shards[number] for number, count in places if count is None]

    def openings(self) -> list[int]:
        """Returns how many shards to open for each turn."""
        return [turn.counts.count(None) for turn in self.turns]


def _of_access(failure: HttpFailure) -> bool:
    """Returns whether a failure means that no other shard can be accessed either."""
    return failure.status in (401, 403) or failure.reason == "no-credentials"


def _bytes_of(sample: SampleRef | Skipped) -> int:
    """Returns the size of a sample in the shuffle buffer."""
    return 0 if sample is DONE else sample_bytes(sample)


def _has_no_number(sample: SampleRef | Skipped) -> bool:
    """Returns whether a sample stands for the lost rest of a shard."""
    return sample.index < 0


def _place_of(cursor: str) -> tuple[int, int]:
    """Returns shard and index of a cursor; the beginning if there is none."""
    shard, _, index = cursor.partition(":")
    return (int(shard), int(index)) if shard.isdecimal() and index.isdecimal() else (0, 0)
