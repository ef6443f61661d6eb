"""Part 8 of the model: what the trainer gets, however it takes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from datago_gpu.config import LoaderConfig
from tests.model.items import Item, Lost
from tests.model.listing import NoSamples, Order
from tests.model.sizes import Bucket
from tests.model.stream import Dropped, Filtered, Number, Refused, Row, Sent, Start, Stream

__all__ = ["Expected", "Reader", "Skip", "is_spent"]

Skip = tuple[int, str, str]
"""Epoch, id and reason; the id of the rest of a shard is empty."""


@dataclass
class Expected:
    """A batch as the trainer gets it."""

    epoch: int
    bucket: Bucket
    items: list[Item]


@dataclass
class Reader:
    """Hands out what a Loader with these settings hands out, from a start on.

    skipped: what was left out so far. A feeder runs ahead, so that a real loader may have told of more by then; at the
    end they are the same.
    """

    config: LoaderConfig
    order: Order
    start: Start
    skipped: list[Skip] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stream = Stream(self.config, self.order, self.start)
        self._events = self._stream.events()
        self._epoch, self._done, self._delivered = self.start.epoch, set(self.start.done), self.start.delivered
        self._waiting = set(self.start.waiting)
        self._at_hand: tuple[Sent, list[Row]] | None = None
        """A batch and what is left of it."""
        self.error = ""
        """What the stream ends with, at its end; "" for a good end."""
        self.flawed: Counter[str] = Counter()
        """Why samples have no attributes that should have some, of the batches so far."""
        self.filtered = 0
        """Samples that `where` has left out so far."""

    def next_batch(self) -> Expected | None:
        """None at the end."""
        if not self._fetch():
            return None
        assert self._at_hand is not None
        (sent, rows), self._at_hand = self._at_hand, None
        self._deliver(rows)
        return Expected(sent.epoch, sent.bucket, [item for _, item in rows])

    def next_sample(self) -> Item | None:
        """None at the end."""
        if not self._fetch():
            return None
        assert self._at_hand is not None
        sent, (row, *left) = self._at_hand
        self._at_hand = (sent, left) if left else None
        self._deliver([row])
        return row[1]

    def state(self) -> Start:
        """What `state_dict` stands for."""
        return Start(self._epoch, frozenset(self._done), self._delivered, frozenset(self._waiting))

    @property
    def delivered(self) -> int:
        """Samples since the start."""
        return self._delivered - self.start.delivered

    def _fetch(self) -> bool:
        """Have a batch at hand. False at the end."""
        while self._at_hand is None and not self.error:
            try:
                event = next(self._events, None)
            except (NoSamples, Refused):
                self.error = "TooManyErrors" if self._is_spent() else "SourceError"
                return False
            if event is None:
                barren = self._stream.is_fruitless or not self._delivered + self._stream.left_out
                if self._is_spent(at_the_end=True) or (self.skipped and barren):
                    self.error = "TooManyErrors"
                elif self.filtered and (self._stream.is_fruitless or (barren and self._stream.is_alone)):
                    self.error = "SourceError"
                return False
            if isinstance(event, Filtered):
                self._enter(event.epoch, event.waited)
                self._done.add(event.number)
                self.filtered += 1
            elif isinstance(event, Dropped):
                self._note_dropped(event)
            else:
                self._note_sent(event)
        return not self.error

    def _is_spent(self, *, at_the_end: bool = False) -> bool:
        good = self.delivered + (self._stream.left_out if at_the_end else 0)
        bad = sum(reason != "too-small" for _, _, reason in self.skipped)
        return is_spent(self.config, bad, good, at_the_end=at_the_end)

    def _note_dropped(self, dropped: Dropped) -> None:
        self._enter(dropped.epoch, dropped.waited)
        name = "" if isinstance(dropped.entry, Lost) else dropped.entry.id
        self.skipped.append((dropped.epoch, name, dropped.reason))
        if dropped.number >= 0:
            self._done.add(dropped.number)

    def _enter(self, epoch: int, waited: frozenset[Number]) -> None:
        if epoch != self._epoch:
            self._epoch, self._done, self._waiting = epoch, set(), set(waited)

    def _note_sent(self, sent: Sent) -> None:
        self._enter(sent.epoch, sent.waited)
        for number, item in sent.rows:
            if item.is_undecodable:
                self._settle(number)
                epoch = number[0] if isinstance(number, tuple) else sent.epoch
                self.skipped.append((epoch, item.id, "undecodable"))
        if self._is_spent():
            self.error = "TooManyErrors"
        elif sent.good:
            self._at_hand = sent, sent.good
            self.flawed.update(item.flaw for _, item in sent.good if item.flaw)

    def _deliver(self, rows: list[Row]) -> None:
        for number, _ in rows:
            self._settle(number)
        self._delivered += len(rows)

    def _settle(self, number: Number) -> None:
        (self._waiting.discard if isinstance(number, tuple) else self._done.add)(number)


def is_spent(config: LoaderConfig, bad: int, delivered: int, *, at_the_end: bool) -> bool:
    """Whether more samples are bad than `max_failures` allows: a number of them, or a share, from the 100th on."""
    allowed, seen = config.max_failures, bad + delivered
    if isinstance(allowed, float):
        return bad > allowed * seen and (at_the_end or seen >= 100)
    return allowed is not None and bad > allowed
