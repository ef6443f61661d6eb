"""How far a stream has been delivered, in few enough words to be kept with a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datago_gpu.feeder.wire import Resume
from datago_gpu.sources.base import ListingDigest, Position, Skipped

__all__ = ["Progress"]


class Progress:
    """Notes what was delivered or skipped; `resume` says how to get the rest, each sample once, in the same order.

    Samples arrive nearly in order, so it keeps the highest index and the holes below it: those are the samples that
    wait in batches that are not full.
    """

    def __init__(self, resume: Resume) -> None:
        self.epoch = resume.position.epoch
        """The one that is under way."""
        self._at = resume.position
        self._highest = resume.position.index - 1
        self._listed, self._accepts_change = resume.listed, resume.accepts_change
        self._holes: set[int] = set()
        self.delivered = resume.delivered
        """Samples, over all epochs."""
        for first, last in resume.done:
            self._note(range(first, last + 1))

    def begin(self, epoch: int, resume_at: Position, listed: ListingDigest | None = None) -> None:
        """What is noted next belongs to this epoch; nothing before `resume_at` is missing once it is noted.

        listed: what was listed up to the last sample that is done once it is noted.
        """
        if epoch != self.epoch:
            self.epoch, self._highest = epoch, -1
            self._holes.clear()
        self._at, self._listed = resume_at, listed

    def skipped(self, skips: Iterable[Skipped]) -> None:
        """These samples will not come. Skips at the end of an epoch may be told of in the next, where they are void."""
        self._note(each.index for each in skips if each.index >= 0 and each.epoch == self.epoch)

    def deliver(self, indices: list[int]) -> None:
        """These samples have been handed to the user."""
        self.delivered += len(indices)
        self._note(indices)

    def resume(self) -> Resume:
        """Where to go on from."""
        first_hole = min(self._holes, default=self._highest + 1)
        # A sample that is missing before the feeder's own mark was sent, and is only half handed out.
        position = self._at if first_hole >= self._at.index else Position(self.epoch, first_hole)
        done = list(self._done(position.index))
        return Resume(position, done, self.delivered, self._listed, self._accepts_change)

    def _note(self, indices: Iterable[int]) -> None:
        for index in indices:
            if index > self._highest:
                self._holes.update(range(self._highest + 1, index))
                self._highest = index
            else:
                self._holes.discard(index)

    def _done(self, first: int) -> Iterator[tuple[int, int]]:
        for hole in [*sorted(hole for hole in self._holes if hole >= first), self._highest + 1]:
            if hole > first:
                yield first, hole - 1
            first = hole + 1
