"""Parts 2 to 7 of the model: what is sent to the decoder, batch by batch, and what is skipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from datago_gpu.config import LoaderConfig
from datago_gpu.units import MiB
from tests.model.items import Item, Lost
from tests.model.listing import Listing, NoSamples, Order, numbered
from tests.model.sizes import Bucket, bucket_of, most_places, places_of

__all__ = [
    "Bucket",
    "Dropped",
    "Filtered",
    "Groups",
    "Refused",
    "Row",
    "Sent",
    "Start",
    "Stream",
    "bucket_of",
    "is_refusal",
]

Number = int | tuple[int, int]
"""Of a sample in its epoch. One that waited at the end of its epoch has its epoch with it from then on."""
Row = tuple[Number, Item]
"""A sample and its number."""


@dataclass(frozen=True)
class Start:
    """Where a stream starts. done: numbers of the epoch's samples that are delivered, or known to be bad.

    waiting: epochs and numbers of those that wait from earlier epochs, with `drop_last`.
    """

    epoch: int = 0
    done: frozenset[Number] = frozenset()
    delivered: int = 0
    waiting: frozenset[Number] = frozenset()


@dataclass(frozen=True)
class Sent:
    """A batch as it goes to the decoder."""

    epoch: int
    bucket: Bucket
    rows: list[Row]
    waited: frozenset[Number] = frozenset()
    """Those of earlier epochs that waited when the epoch began."""

    @property
    def good(self) -> list[Row]:
        return [row for row in self.rows if row[1].is_good]


@dataclass(frozen=True)
class Filtered:
    """A sample that `where` leaves out."""

    epoch: int
    number: int
    waited: frozenset[Number] = frozenset()
    """As of a `Sent`."""


@dataclass(frozen=True)
class Dropped:
    """A sample, or the rest of a shard, that the feeder skips. number: of the sample; -1 for the rest of a shard."""

    epoch: int
    number: int
    entry: Item | Lost
    waited: frozenset[Number] = frozenset()
    """As of a `Sent`."""

    @property
    def reason(self) -> str:
        return _reason(self.entry)


def is_refusal(entry: Item | Lost) -> bool:
    """Whether it cannot be had, rather than that it is bad."""
    reason = _reason(entry)
    return reason in ("missing", "connection", "cut-short") or reason.startswith("http-")


def _reason(entry: Item | Lost) -> str:
    return entry.reason if isinstance(entry, Lost) else entry.skipped


class Refused(Exception):
    """Too many samples in a row cannot be had, which is an error."""


class Refusals:
    """Holds samples back that cannot be had, until the next good sample or the end shows that they are single faults.

    most: in a row, `max_refused_in_a_row`. A lost shard counts as a third of them.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._held: list[Dropped] = []

    def held_back(self, dropped: Dropped) -> Iterator[Dropped]:
        """What can be told at once. Raises Refused where the row is too long."""
        if self._most is None or not is_refusal(dropped.entry):
            yield dropped
            return
        self._held.append(dropped)
        if sum(-(-self._most // 3) if isinstance(each.entry, Lost) else 1 for each in self._held) >= self._most:
            raise Refused

    def released(self) -> Iterator[Dropped]:
        yield from self._held
        self._held.clear()

    def end(self) -> Iterator[Dropped]:
        """A quarter of such a row is too long at the end of a listing, where there are only single samples in it."""
        shards = any(isinstance(each.entry, Lost) for each in self._held)
        if self._most is not None and not shards and len(self._held) >= max(2, self._most // 4):
            raise Refused
        yield from self.released()


class Groups:
    """The samples that wait for their batch to be full."""

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self._open: dict[Bucket, list[Row]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    @property
    def begun(self) -> int:
        """The samples that the groups will have as full batches."""
        return sum(places_of(self._config, bucket) for bucket in self._open)

    def numbers(self) -> list[Number]:
        return [number for rows in self._open.values() for number, _ in rows]

    def end_epoch(self, epoch: int) -> None:
        """What waits is of an earlier epoch from now on."""
        for bucket, rows in self._open.items():
            self._open[bucket] = [
                (number if isinstance(number, tuple) else (epoch, number), item) for number, item in rows
            ]

    def add(self, row: Row) -> Iterator[tuple[Bucket, list[Row]]]:
        image = self._config.image_config
        bucket = bucket_of(self._config, row[1]) if not image.mixed_buckets else None
        if bucket in self._open and not self._fits_one_batch([*self._open[bucket], row]):
            yield self._close(bucket)
        self._open.setdefault(bucket, []).append(row)
        if len(self._open[bucket]) == places_of(self._config, bucket):
            yield self._close(bucket)
        elif sum(map(self._size, self._open.values())) > self._config.bucket_memory_mb * MiB:
            # Of several that are equally large, the one that was begun first.
            yield self._close(max(self._open, key=lambda each: self._size(self._open[each])))

    def flush(self) -> Iterator[tuple[Bucket, list[Row]]]:
        while self._open:
            yield self._close(min(self._open, key=lambda each: _since(self._open[each][0][0])))

    def _fits_one_batch(self, rows: list[Row]) -> bool:
        pixels = sum(
            high * wide
            for _, item in rows
            for high, wide in (item.shape, *(piece.shape for piece in item.pieces.values()))
        )
        channels = 4 if any(item.pieces for _, item in rows) else 3  # labels may take 4 bytes
        most = self._config.samples_buffer_mb * MiB // channels
        is_cut = self._config.image_config.crop_and_resize
        return self._size(rows) <= self._config.arena_mb * MiB // 2 and (is_cut or pixels <= most)

    def _size(self, rows: list[Row]) -> int:
        """In the arena, where each payload begins at a multiple of 64 bytes; and of attributes."""
        payloads = [size for _, item in rows for size in (self._payload(item), *_sizes_of_pieces(item))]
        return sum(-(-size // 64) * 64 for size in payloads) + sum(len(item.attributes) for _, item in rows)

    def _payload(self, item: Item) -> int:
        if not item.is_converted:
            return item.size
        bucket, image = bucket_of(self._config, item), self._config.image_config
        high, wide = bucket or item.shape
        if bucket and image.view_count > 1:  # one picture, in which the views lie below each other
            sizes = [image.view_bucket(view, bucket) for view in range(image.view_count)]
            high, wide = sum(size[0] for size in sizes), max(size[1] for size in sizes)
        return len(f"P6 {wide} {high} 255 ") + 3 * high * wide

    def _close(self, bucket: Bucket) -> tuple[Bucket, list[Row]]:
        return bucket, self._open.pop(bucket)


def _since(number: Number) -> tuple[float, int]:
    """To sort by: those of earlier epochs are first."""
    return number if isinstance(number, tuple) else (math.inf, number)


def _sizes_of_pieces(item: Item) -> list[int]:
    return [piece.size for piece in item.pieces.values()]


def _none_passes(listing: Listing) -> bool:
    """Whether `where` has left out everything that it has looked at."""
    looked_at = [entry for entry in listing if isinstance(entry, Item) and not entry.is_lacking]
    return bool(looked_at) and all(item.is_filtered for item in looked_at)


class Stream:
    """What the feeder sends and skips, in this order, from a start on. `is_fruitless`: at its end, whether it ended
    since passes over the source brought no sample."""

    def __init__(self, config: LoaderConfig, order: Order, start: Start) -> None:
        self._config, self._order, self._start = config, order, start
        self._delivered = start.delivered
        self._groups = Groups(config)
        self._waited: frozenset[Number] = start.waiting
        self._fruitful: set[int] = set()
        """Epochs of which a sample could be decoded."""
        self.is_fruitless = False

    @property
    def is_alone(self) -> bool:
        """Of several ranks, one may have so few samples that `where` leaves out all of them."""
        return self._config.rank_and_world_size()[1] == 1

    @property
    def left_out(self) -> int:
        """At its end: the samples that `drop_last` leaves out, unless the limit was reached."""
        return len(self._groups) if self._wanted(0) > 0 else 0

    def events(self) -> Iterator[Sent | Dropped | Filtered]:
        epoch = self._start.epoch
        for of_epoch, number in sorted(each for each in self._start.waiting if isinstance(each, tuple)):
            item = dict(numbered(self._order(of_epoch)))[number]
            assert isinstance(item, Item)
            for group in self._groups.add(((of_epoch, number), item)):
                yield self._send(epoch, *group)
        while self._config.epochs is None or epoch < self._config.epochs:
            if not self._may_repeat(epoch):
                self.is_fruitless = True
                return
            if self._wanted(0) <= 0:
                return
            yield from self._epoch(epoch)
            self._groups.end_epoch(epoch)
            self._waited = frozenset(self._groups.numbers())
            epoch += 1

    def _may_repeat(self, epoch: int) -> bool:
        """The first epoch has to bring a sample, or have brought one before the start; then one of the last two.

        Where one of the last two brought samples that wait, there is time to fill all groups, one sample in two epochs.
        """
        first = self._start.epoch
        waits = any(isinstance(each, tuple) and each[0] >= epoch - 2 for each in self._waited)
        patience = 2 * self._groups.begun if waits else 0
        since = max(first, epoch - 2 - patience)
        return (
            epoch - first <= patience
            or (since == first and self._start.delivered > 0)
            or any(e >= since for e in self._fruitful)
        )

    def _wanted(self, held: int) -> int:
        """How many further samples may be delivered, if all that is held is good."""
        if self._config.limit is None:
            return 1
        missing = self._config.limit - self._delivered
        if self._config.drop_last:
            return missing if missing >= most_places(self._config) else 0
        return missing - held

    def _epoch(self, epoch: int) -> Iterator[Sent | Dropped | Filtered]:
        groups = self._groups
        try:
            yield from self._through(groups, epoch)
        except (NoSamples, Refused):
            for group in groups.flush():
                yield self._send(epoch, *group)
            raise
        for group in groups.flush() if not self._config.drop_last else ():
            yield self._send(epoch, *group)

    def _through(self, groups: Groups, epoch: int) -> Iterator[Sent | Dropped | Filtered]:
        """The samples of an epoch, up to the limit. Raises NoSamples, Refused."""
        of_sources: dict[str, Refusals] = {}  # each source of a mix is judged by itself
        listing, problem = self._listed(epoch)
        done = self._start.done if epoch == self._start.epoch else frozenset()
        for number, entry in [pair for pair in numbered(listing) if pair[0] not in done]:
            refusals = of_sources.setdefault(entry.mix, Refusals(self._config.max_refused_in_a_row))
            if isinstance(entry, Item) and entry.is_filtered:
                yield Filtered(epoch, number, self._waited)
                continue
            if isinstance(entry, Lost) or entry.skipped:
                yield from refusals.held_back(Dropped(epoch, number, entry, self._waited))
                continue
            yield from refusals.released()
            for group in groups.add((number, entry)):
                yield self._send(epoch, *group)
            if self._wanted(len(groups)) <= 0:
                if not self._config.drop_last:
                    for group in groups.flush():
                        yield self._send(epoch, *group)
                if self._wanted(0) <= 0:
                    return
        if problem or (self._start == Start() and not epoch and _none_passes(listing) and self.is_alone):
            raise problem or NoSamples([])
        yield from [dropped for refusals in of_sources.values() for dropped in refusals.end()]

    def _listed(self, epoch: int) -> tuple[Listing, NoSamples | None]:
        try:
            return self._order(epoch), None
        except NoSamples as problem:
            return problem.lost, problem

    def _send(self, epoch: int, bucket: Bucket, rows: list[Row]) -> Sent:
        if self._config.image_config.mixed_buckets:
            buckets = {bucket_of(self._config, item) for _, item in rows}
            bucket = buckets.pop() if len(buckets) == 1 else None
        sent = Sent(epoch, bucket, rows, self._waited)
        self._delivered += len(sent.good)
        if sent.good:
            self._fruitful.add(epoch)
        return sent
