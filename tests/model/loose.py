"""Part 11 of the model: what holds where `ordered` is false, and payloads are taken as they arrive."""

from __future__ import annotations

from collections import Counter

from datago_gpu.config import LoaderConfig
from tests.model.items import Item, Lost
from tests.model.listing import Listing, NoSamples, Order
from tests.model.reader import Skip, is_spent
from tests.model.sizes import Bucket, bucket_of, most_places, places_of
from tests.model.stream import is_refusal

__all__ = ["Loose"]


class Loose:
    """Holds what is handed out to the listing of each epoch, over all loaders of a run.

    One epoch is over before the next one begins. In an epoch each good sample comes once, and no other. At its end they
    have all come; with `drop_last` of each bucket less than a batch is missing, and comes in later epochs of the run. A
    batch has one bucket. Samples of shards keep their order within a bucket, but for those that the feeder has to
    decode, or that come in a later epoch.
    """

    def __init__(self, config: LoaderConfig, order: Order, epoch: int) -> None:
        self._config, self._order, self._earliest = config, order, epoch
        self.delivered = 0
        self._carries = config.drop_last and (config.epochs is None or config.epochs - epoch > 1)
        self._left, self._items = Counter[str](), dict[str, Item]()
        self._enter(epoch)
        self.begin()

    def begin(self) -> None:
        """Another loader goes on from here."""
        self._first, self._before = self._epoch, self.delivered
        self._fruitful: set[int] = set()

    def take(self, epoch: int, names: list[str], bucket: Bucket) -> list[Item]:
        """The samples of a batch."""
        assert len(names) <= places_of(self._config, bucket)
        items = [self.take_one(epoch, name) for name in names]
        buckets = {bucket_of(self._config, item) for item in items}
        # Of a mixed batch the decoder may have left out those that were of another bucket.
        assert buckets == {bucket} or (self._config.image_config.mixed_buckets and bucket is None)
        return items

    def take_one(self, epoch: int, name: str) -> Item:
        """The next sample."""
        assert epoch >= self._epoch
        while self._epoch < epoch:
            self._check_all_came()
            self._enter(self._epoch + 1)
        assert self._left[name] > 0, f"{name} comes twice in epoch {epoch}, or is no good sample"
        self._left[name] -= 1
        item = self._items[name]
        self._check_order(item)
        self.delivered += 1
        self._fruitful.add(epoch)
        assert self._config.limit is None or self.delivered <= self._config.limit
        return item

    def check_end(self, error: str | None, bad: int, small: int) -> None:
        """The stream has ended: with this error, or "". None where nobody knows. bad: what this loader has skipped.
        small: what of that is too small, which `max_failures` does not count."""
        if error != "" and self._may_be_refused():
            return
        if self._config.source_config.where and error == "SourceError" and self.delivered == self._before:
            return
        if error != "" and self._is_spent(bad - small, at_the_end=False):
            return
        if self._carries and error != "SourceError":  # which batches are begun, and so when it ends, is not promised
            if not self._is_limit_reached():
                self._check_all_came()
            assert error in ("", None) or bad
            return
        ends = self._end()
        if self._config.drop_last and bad and not ends:  # how many good samples are left out is not promised
            assert error in ("", "TooManyErrors", None)
            return
        if not ends and self._is_spent(bad - small, at_the_end=True):
            ends = "TooManyErrors"
        elif not ends or ends == "fruitless":
            ends = "TooManyErrors" if bad and (ends or not self.delivered) else ""
        assert error in (ends, None)

    def _end(self) -> str:
        """How a stream may end here: "" for a good end, "fruitless", or "SourceError"."""
        while not self._is_limit_reached():
            self._check_all_came()
            if self._has_no_samples(self._epoch):
                return "SourceError"
            following = self._epoch + 1
            if self._config.epochs is not None and following >= self._config.epochs:
                return ""
            if not self._may_repeat(following):
                return "fruitless"
            self._enter(following)
        return ""

    def _is_spent(self, bad: int, *, at_the_end: bool) -> bool:
        return is_spent(self._config, bad, self.delivered - self._before, at_the_end=at_the_end)

    def _may_be_refused(self) -> bool:
        """Whether enough samples of the epoch, or of the next one, cannot be had for the run to end for them."""
        most = self._config.max_refused_in_a_row
        if most is None:
            return False
        epochs = [self._listing, self._listed(self._epoch + 1)]
        rows = [[each for each in listing if is_refusal(each)] for listing in epochs]
        lengths = [sum(-(-most // 3) if isinstance(each, Lost) else 1 for each in row) for row in rows]
        return max(lengths) >= min(most, max(2, most // 4))

    def bad(self, told: int) -> list[Skip]:
        """Epoch, name and reason of each bad sample so far. told: the last epoch that was told of, which may have had
        no batch."""
        last = max(self._epoch, told)
        return [
            (epoch, item.id, item.skipped or "undecodable")
            for epoch in range(self._earliest, last + 1)
            for item in self._listed(epoch)
            if isinstance(item, Item) and not (item.is_good or item.is_filtered)
        ]

    def _enter(self, epoch: int) -> None:
        self._epoch = epoch
        self._listing = self._listed(epoch)
        good = {item.id: item for item in self._listing if isinstance(item, Item) and item.is_good}
        self._left = self._left + Counter(good.keys()) if self._carries else Counter(good.keys())
        self._items |= good
        self._places = {item.id: place for place, item in enumerate(self._listing) if isinstance(item, Item)}
        self._latest: dict[Bucket, int] = {}

    def _listed(self, epoch: int) -> Listing:
        try:
            return self._order(epoch)
        except NoSamples as problem:
            return problem.lost

    def _has_no_samples(self, epoch: int) -> bool:
        try:
            self._order(epoch)
        except NoSamples:
            return True
        return False

    def _check_order(self, item: Item) -> None:
        if self._config.source_type == "webdataset" and not item.is_converted and not self._carries:
            mixed = self._config.image_config.mixed_buckets
            bucket = None if mixed else bucket_of(self._config, item)
            assert self._places[item.id] > self._latest.get(bucket, -1), f"{item.id} comes too late"
            self._latest[bucket] = self._places[item.id]

    def _check_all_came(self) -> None:
        if not self._config.drop_last:
            assert not +self._left, f"epoch {self._epoch} ends without {sorted(+self._left)}"
            return
        mixed = self._config.image_config.mixed_buckets
        missing = [None if mixed else bucket_of(self._config, self._items[name]) for name in self._left.elements()]
        assert all(missing.count(bucket) < places_of(self._config, bucket) for bucket in missing)

    def _is_limit_reached(self) -> bool:
        if self._config.limit is None:
            return False
        missing = self._config.limit - self.delivered
        return missing < (most_places(self._config) if self._config.drop_last else 1)

    def _may_repeat(self, epoch: int) -> bool:
        """As `Stream._may_repeat`."""
        since = max(self._first, epoch - 2)
        return (since == self._first and self._before > 0) or any(each >= since for each in self._fruitful)
