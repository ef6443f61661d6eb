"""Part 1c of the model: the listing of a mix, sample by sample, with fractions."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from datago_gpu.config import LoaderConfig, MixSource
from tests.model.items import Item, Lost
from tests.model.listing import Listing, NoSamples, Order

__all__ = ["mixed"]


def mixed(config: LoaderConfig, orders: Mapping[str, Order]) -> Order:
    """The next sample is of the source that would first be behind its share, of those that are not ahead of theirs.

    orders: name of a source -> its order. What is lost of a source is told of when its next sample is asked for.
    """
    mix = config.source_config
    assert isinstance(mix, MixSource)

    def order(epoch: int) -> Listing:
        weights = {part.name: Fraction(str(weight)) for part, weight in zip(mix.sources, mix.weights, strict=True)}
        most = {}
        if mix.repeats:
            most = {name: int(weight) for name, weight in weights.items()}
            weights = {name: weight * _samples_of(orders[name](epoch)) for name, weight in weights.items()}
            if not all(weights.values()):
                raise NoSamples([])
        walk = _Walk(orders, weights, most, epoch, labelled=mix.has_labels)
        return walk.listing(stops_first=mix.stop == "first" and not mix.repeats)

    return order


def _samples_of(listing: Listing) -> int:
    return sum(isinstance(entry, Item) for entry in listing)


class _Walk:
    """most: after how many passes each source gives no more; none: it always does. labelled: whether a source has
    labels: then samples without a label have -1."""

    def __init__(
        self,
        orders: Mapping[str, Order],
        weights: dict[str, Fraction],
        most: dict[str, int],
        epoch: int,
        *,
        labelled: bool,
    ) -> None:
        self._orders, self._weights, self._most, self._epoch = orders, weights, most, epoch
        self._labelled = labelled
        self._given, self._passes = dict.fromkeys(orders, 0), dict.fromkeys(orders, 0)
        self._out: Listing = []
        self._left = {name: self._begin(name) for name in orders if weights[name]}

    def listing(self, *, stops_first: bool) -> Listing:
        """Raises NoSamples if a source has none."""
        while name := self._next():
            left, missing = self._left[name]
            while left and not isinstance(left[0], Item):
                self._out.append(replace(left.popleft(), mix=name))
            if left:
                number = self._epoch + (self._passes[name] << 32)
                item = left.popleft()
                label = -1 if self._labelled and item.label is None else item.label
                self._out.append(replace(item, mix=name, pass_number=number, label=label))
                self._given[name] += 1
                continue
            if missing:
                raise NoSamples(self._out)
            self._passes[name] += 1
            if stops_first or (not self._most and all(self._passes[each] for each in self._left)):
                break
            self._left[name] = self._begin(name)
        return self._out

    def _begin(self, name: str) -> tuple[deque[Item | Lost], bool]:
        """The samples of the next pass, and whether they are none, which is an error."""
        try:
            listing = self._orders[name](self._epoch + (self._passes[name] << 32))
        except NoSamples as problem:
            return deque(problem.lost), True
        return deque(listing), not _samples_of(listing)

    def _next(self) -> str:
        """The name of the source that is next; "" if all have given what they have."""
        total, place = sum(self._weights.values()), sum(self._given.values()) + 1
        there = [name for name in self._left if not self._most or self._passes[name] < self._most[name]]
        behind = [name for name in there if self._given[name] < place * self._weights[name] / total]
        return min(behind or there, key=lambda name: (self._given[name] + 1) / self._weights[name], default="")
