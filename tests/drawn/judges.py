"""Say whether what a trainer gets is what was promised: exactly with `ordered`, else as far as there is a promise."""

from __future__ import annotations

import json
from collections import Counter
from typing import Protocol

import pytest

from datago_gpu import LoaderConfig
from tests.drawn.ways import UNTOLD, Got, GotBatch
from tests.model import Bucket, Item, Loose, Order, Reader, Skip, Start
from tests.model.shown import shown_of

__all__ = ["Exact", "Judge", "Loosely"]


class Judge(Protocol):
    """Judges one loader after the other, of one pass."""

    @property
    def delivered(self) -> int:
        """Samples, over all loaders of the pass."""

    def go_on(self) -> None:
        """The next loader goes on where this one stands."""

    def batch(self, got: GotBatch | None) -> None:
        """What came in answer to the question for a batch; None for the end."""

    def sample(self, got: Got | None, epoch: int) -> None:
        """The same of a sample. epoch: the one that the loader says it is in."""

    def end(self, error: str | None, found: Counter[Skip]) -> None:
        """The stream has ended: with this error, or ""; None where nobody knows. found: what this loader skipped."""

    def middle(self, found: Counter[Skip]) -> None:
        """The loader is closed in the middle."""


class Exact:
    """Everything is known before it comes."""

    def __init__(self, config: LoaderConfig, order: Order, epoch: int) -> None:
        self._config, self._order = config, order
        self._reader = Reader(config, order, Start(epoch))

    @property
    def delivered(self) -> int:
        return self._reader.state().delivered

    @property
    def filtered(self) -> int:
        """Samples that `where` left out, of this loader so far."""
        return self._reader.filtered

    @property
    def flawed(self) -> Counter[str]:
        """Why samples have no attributes that should have some, of the batches of this loader so far."""
        return self._reader.flawed

    def go_on(self) -> None:
        self._reader = Reader(self._config, self._order, self._reader.state())

    def batch(self, got: GotBatch | None) -> None:
        expected = self._reader.next_batch()
        if got is None or expected is None:
            assert got is expected, f"{got or 'the end'} comes in place of {expected or 'the end'}"
            return
        ids = [sample.id for sample in got.samples]
        assert ids == [item.id for item in expected.items], f"got {ids} in place of {expected}"
        assert (got.epoch, got.bucket) == (expected.epoch, expected.bucket)
        for sample, item in zip(got.samples, expected.items, strict=True):
            check(sample, item, got.bucket, self._config)

    def sample(self, got: Got | None, epoch: int) -> None:
        expected = self._reader.next_sample()
        if got is None or expected is None:
            assert got is expected, f"{got or 'the end'} comes in place of {expected or 'the end'}"
            return
        check(got, expected, None, self._config)

    def end(self, error: str | None, found: Counter[Skip]) -> None:
        self.middle(found)
        assert error in (self._reader.error, None)

    def middle(self, found: Counter[Skip]) -> None:
        expected = Counter(self._reader.skipped)
        differences = [_of_samples(found) - _of_samples(expected), _of_samples(expected) - _of_samples(found)]
        assert not any(differences), f"was and was not told of: {differences}"
        # The rest of a shard is told again only where the shard is read again.
        assert found <= expected, f"{found - expected} was told of too often"


class Loosely:
    """Each sample once an epoch, whenever it comes."""

    def __init__(self, config: LoaderConfig, order: Order, epoch: int) -> None:
        self._config = config
        self._loose = Loose(config, order, epoch)
        self._told: Counter[Skip] = Counter()

    @property
    def delivered(self) -> int:
        return self._loose.delivered

    def go_on(self) -> None:
        self._loose.begin()

    def batch(self, got: GotBatch | None) -> None:
        if got is not None:
            items = self._loose.take(got.epoch, [sample.id for sample in got.samples], got.bucket)
            for sample, item in zip(got.samples, items, strict=True):
                check(sample, item, got.bucket, self._config)

    def sample(self, got: Got | None, epoch: int) -> None:
        if got is not None:
            check(got, self._loose.take_one(epoch, got.id), None, self._config)

    def end(self, error: str | None, found: Counter[Skip]) -> None:
        self.middle(found)
        small = sum(count for (_, _, reason), count in found.items() if reason == "too-small")
        self._loose.check_end(error, found.total(), small)
        if not (error or self._config.drop_last or self._config.limit or self._config.max_failures is not None):
            assert _of_samples(self._told) == Counter(self._loose.bad(0))

    def middle(self, found: Counter[Skip]) -> None:
        self._told += found
        last = max((epoch for epoch, _, _ in self._told), default=0)
        assert _of_samples(self._told) <= Counter(self._loose.bad(last))


def check(got: Got, item: Item, bucket: Bucket, config: LoaderConfig) -> None:
    """Everything that a sample has is its own. bucket: the size of its pixels, where that is known."""
    assert (got.id, *got.place) == (item.id, item.mix, item.pass_number)
    assert got.original_size == item.shape
    check_views(got, item, bucket, config)
    assert got.label in (item.label, UNTOLD)
    assert got.attributes == json.loads(item.attributes)
    assert got.embedding == list(item.embedding)
    assert got.pieces.keys() == item.pieces.keys()
    for name, piece in item.pieces.items():
        pixels = got.pieces[name]
        if name == "mask":
            assert (pixels == piece.color).all()
        else:
            assert abs(pixels[..., 0].mean() - piece.color) < 4
        assert bucket is None or pixels.shape[:2] == bucket


def check_views(got: Got, item: Item, bucket: Bucket, config: LoaderConfig) -> None:
    """Each view has its size, shows its region, and has the colour of the picture."""
    image, views = config.image_config, [got.pixels, *got.further_views]
    assert len(views) == image.view_count
    for view, pixels in enumerate(views):
        assert bucket is None or pixels.shape == (*image.view_bucket(view, bucket), 3)
        assert item.color is None or abs(pixels[..., 0].mean() - item.color) < 4
        if got.shown:
            epoch = got.epoch if item.pass_number is None else item.pass_number
            key = (config.seed, epoch, got.id, view)
            (region, flipped) = shown_of(image.of_view(view), key, item.shape, pixels.shape[:2])
            wanted = (pytest.approx(region, rel=1e-5, abs=1e-4), flipped)
            assert got.shown[view] == wanted, f"view {view} of {got.id}: {got.shown[view]}, not {region}"


def _of_samples(skips: Counter[Skip]) -> Counter[Skip]:
    """Less those of shards."""
    return Counter({skip: times for skip, times in skips.items() if skip[1]})
