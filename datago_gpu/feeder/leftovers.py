"""Keeps samples that wait in batches that are not full: with `drop_last` they go into the next epochs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import aclosing
from itertools import pairwise

from datago_gpu.feeder.wire import Carried
from datago_gpu.sources.reference import ListingDigest, PartlyDone, Position, Refs, Tally

__all__ = ["Leftovers", "remaining_refs", "start_of"]


class Leftovers:
    """Holds the waiting samples by epoch and index, from the end of their epoch until they are delivered or skipped."""

    def __init__(self, carried: Iterable[Carried] = ()) -> None:
        self._of = {each.start.epoch: (each, set(each.indices)) for each in carried}

    def __bool__(self) -> bool:
        return bool(self._of)

    def holds(self, epoch: int) -> bool:
        """Returns whether samples of this epoch wait."""
        return epoch in self._of

    def keep(self, epoch: int, cursors: dict[int, str], listed: ListingDigest | None) -> None:
        """Records the samples that wait at the end of an epoch: index -> cursor, in the order of listing."""
        if cursors:
            index, cursor = next(iter(cursors.items()))
            self._of[epoch] = Carried(Position(epoch, index, cursor), list(cursors), listed), set(cursors)

    def discard(self, epoch: int, index: int) -> None:
        """Removes this sample, if it was waiting."""
        if epoch in self._of:
            _, left = self._of[epoch]
            left.discard(index)
            if not left:
                del self._of[epoch]

    def list_carried(self) -> list[Carried]:
        """Returns the samples that still wait."""
        found = [Carried(each.start, sorted(left), each.listed) for each, left in self._of.values()]
        return sorted(found, key=lambda each: each.start.epoch)


def start_of(carried: Carried) -> PartlyDone:
    """Returns where the listing begins that brings the waiting samples; all other samples of their epoch are done."""
    edges = [carried.start.index - 1, *sorted(carried.indices), sys.maxsize]
    done = [(before + 1, after - 1) for before, after in pairwise(edges)]
    return PartlyDone.behind(carried.start, done, carried.listed)


async def remaining_refs(carried: Carried, refs: Refs, tally: Tally) -> Refs:
    """Yields the waiting samples from the listing of their epoch, and closes the listing.

    Files that the listing passes over without giving them a number were reported in that epoch. They are reported again
    only if a sample is lost because of them.
    """
    left, passed = set(carried.indices), []
    async with aclosing(refs) as listed:
        async for ref in listed:
            if ref.index in left:
                left.discard(ref.index)
                yield ref
            elif ref.index < 0:
                passed.append(ref)
            if not left and not tally.pending:
                return
    for ref in passed if left else ():
        yield ref
