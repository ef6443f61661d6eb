"""Part 8 of the model: what the trainer gets, however it takes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from datago_gpu.config import LoaderConfig
from tests.model.listing import Item, Lost, NoSamples, Order
from tests.model.stream import Bucket, Dropped, Row, Sent, Start, Stream

__all__ = ["Expected", "Reader", "Skip"]

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
        self._at_hand: tuple[Sent, list[Row]] | None = None
        """A batch and what is left of it."""
        self.is_empty = False
        """The listing holds no sample, which is an error."""

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
        return Start(self._epoch, frozenset(self._done), self._delivered)

    @property
    def delivered(self) -> int:
        """Samples since the start."""
        return self._delivered - self.start.delivered

    @property
    def is_fruitless(self) -> bool:
        return self._stream.is_fruitless

    def _fetch(self) -> bool:
        """Have a batch at hand. False at the end."""
        while self._at_hand is None:
            try:
                event = next(self._events, None)
            except NoSamples:
                self.is_empty, event = True, None
            if event is None:
                return False
            if isinstance(event, Dropped):
                self._note_dropped(event)
            else:
                self._note_sent(event)
        return True

    def _note_dropped(self, dropped: Dropped) -> None:
        if isinstance(dropped.entry, Lost):
            self.skipped.append((dropped.epoch, "", dropped.entry.reason))
        else:
            self.skipped.append((dropped.epoch, dropped.entry.id, dropped.entry.skipped))

    def _note_sent(self, sent: Sent) -> None:
        if sent.epoch != self._epoch:
            self._epoch, self._done = sent.epoch, set()
        for number, item in sent.rows:
            if item.is_undecodable:
                self._done.add(number)
                self.skipped.append((sent.epoch, item.id, "undecodable"))
        if sent.good:
            self._at_hand = sent, sent.good

    def _deliver(self, rows: list[Row]) -> None:
        self._done |= {number for number, _ in rows}
        self._delivered += len(rows)
