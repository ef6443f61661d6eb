"""Records how far a stream has been delivered, compactly enough for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from datago_gpu.feeder.leftovers import Leftovers
from datago_gpu.feeder.wire import Mark, Number, Resume
from datago_gpu.sources.reference import Position, Skipped

__all__ = ["Progress"]


class Progress:
    """Records the samples delivered or skipped. From `resume` a stream returns all others once, in the same order.

    Samples arrive nearly in order, so this class keeps the highest index and the holes below that index. The holes are
    samples that wait in batches that are not full.
    """

    def __init__(self, resume: Resume) -> None:
        self.epoch = resume.position.epoch
        """The current epoch."""
        self._at = resume.position
        self._highest = resume.position.index - 1
        self._leftovers = Leftovers(resume.carried)
        self._listed, self._accepts_change = resume.listed, resume.accepts_change
        self._holes: set[int] = set()
        self._ahead: list[Skipped] = []
        """Skips of an epoch of which no batch has come yet."""
        self.epoch_samples: int | None = None
        """Number of samples of the last epoch that has ended, if one has."""
        self.delivered = resume.delivered
        """Samples delivered, over all epochs."""
        for first, last in resume.done:
            self._note_range(first, last)

    def begin(self, mark: Mark) -> None:
        """Starts a batch with this mark: once its samples are recorded, all before `mark.resume_at` are done."""
        epoch = mark.resume_at.epoch
        if epoch != self.epoch:
            waiting = (number for each in mark.carried if each.start.epoch == self.epoch for number in each.indices)
            self.epoch_samples = max(self._highest, *waiting, -1) + 1
            self.epoch, self._highest = epoch, -1
            self._holes.clear()
            self._leftovers = Leftovers(mark.carried)
            ahead, self._ahead = self._ahead, []
            self.skip(ahead)
        self._at, self._listed = mark.resume_at, mark.listed

    def skip(self, skips: Iterable[Skipped]) -> None:
        """Records skipped samples. Those from the end of an epoch can be reported during the next one."""
        for each in skips:
            if each.index < 0:  # it has no number
                continue
            last = each.index + each.count - 1
            if each.epoch == self.epoch:
                self._note_range(each.index, last)
            elif each.epoch > self.epoch:
                self._ahead.append(each)
            elif self._leftovers.holds(each.epoch):
                for index in range(each.index, last + 1):
                    self._leftovers.discard(each.epoch, index)

    def covers(self, skip: Skipped) -> bool:
        """Returns whether no feeder reports this skip again, because `resume` says that the sample is done."""
        return skip.index >= 0 and skip.epoch <= self.epoch

    def deliver(self, numbers: Sequence[Number], failures: int = 0) -> None:
        """Records samples delivered to the user, less the failures."""
        self.delivered += len(numbers) - failures
        if self._leftovers:
            earlier = [number for number in numbers if isinstance(number, tuple)]
            for epoch, index in earlier:
                self._leftovers.discard(epoch, index)
        self._note(number for number in numbers if isinstance(number, int))

    @property
    def epoch_done(self) -> int:
        """Returns how many samples of the current epoch are delivered or skipped."""
        return self._highest + 1 - len(self._holes)

    def resume(self) -> Resume:
        """Returns where to resume."""
        first_hole = min(self._holes, default=self._highest + 1)
        # If a hole lies before the feeder's position, its batch was only partly consumed: resume from the hole.
        position = self._at if first_hole >= self._at.index else Position(self.epoch, first_hole)
        done = list(self._done(position.index))
        carried = self._leftovers.list_carried()
        return Resume(position, done, self.delivered, carried, self._listed, self._accepts_change)

    def _note(self, indices: Iterable[int]) -> None:
        for index in indices:
            if index > self._highest:
                self._holes.update(range(self._highest + 1, index))
                self._highest = index
            else:
                self._holes.discard(index)

    def _note_range(self, first: int, last: int) -> None:
        if first > self._highest:
            self._holes.update(range(self._highest + 1, first))
            self._highest = last
        else:
            self._note(range(first, last + 1))

    def _done(self, first: int) -> Iterator[tuple[int, int]]:
        for hole in [*sorted(hole for hole in self._holes if hole >= first), self._highest + 1]:
            if hole > first:
                yield first, hole - 1
            first = hole + 1
