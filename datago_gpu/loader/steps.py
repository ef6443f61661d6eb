"""Records how far a stream in lockstep has been delivered: by whole batches, which are the same on all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs

from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.wire import Mark, Number, Resume
from datago_gpu.loader.progress import Progress
from datago_gpu.plan.taken import continued, together_of
from datago_gpu.sources.reference import Position, Skipped

__all__ = ["Steps", "progress_of"]


class Steps:
    """Records the batches delivered, with the methods of `Progress`. A batch counts once all of its samples do."""

    def __init__(self, config: LoaderConfig, resume: Resume) -> None:
        self._stride, self._resume = config.most_samples, resume
        self._together, self._of_batch, self._steps = together_of(config), 0, 0
        self.epoch = resume.position.epoch
        """The current epoch."""
        self._begin_epoch(resume)
        self.epoch_done = self._steps * config.least_samples
        """Samples of the current epoch delivered, with those that only fill places. If a run with `batch_pixels` was
        resumed, there may be more."""
        self._listed = resume.listed
        self.epoch_samples: int | None = None
        """See `Progress.epoch_samples`."""
        self.delivered = resume.delivered
        """Samples delivered, over all epochs, less those that only fill places."""
        self._places = resume.delivered

    def begin(self, mark: Mark) -> None:
        """Starts a batch with this mark."""
        self._of_batch = 0
        if mark.resume_at.epoch != self.epoch:
            self.epoch_samples, self.epoch_done = self.epoch_done, 0
            self.epoch = mark.resume_at.epoch
            self._begin_epoch(Resume())
        self._listed = mark.listed

    def skip(self, skips: Iterable[Skipped]) -> None:
        """Does nothing: a skipped sample is done with its batch."""

    def covers(self, skip: Skipped) -> bool:
        """Returns whether no feeder reports this skip again: while the epoch goes on, its batch may be sent again."""
        return skip.epoch < self.epoch

    def deliver(self, numbers: Sequence[Number], failures: int = 0) -> None:
        """Records samples delivered to the user. failures: how many of them only fill places."""
        self.delivered += len(numbers) - failures
        self._of_batch += len(numbers)
        self.epoch_done += len(numbers)
        last = numbers[-1]
        assert isinstance(last, int)
        if (last + 1) % self._stride == 0:
            self._steps = (last + 1) // self._stride
            self._places += self._of_batch

    def resume(self) -> Resume:
        """Returns where to resume."""
        taken = [*self._before, (self._together, self._steps)] if self._steps else self._before
        return structs.replace(
            self._resume, position=Position(self.epoch), taken=taken, delivered=self._places, listed=self._listed
        )

    def _begin_epoch(self, resume: Resume) -> None:
        *self._before, (_, self._steps) = continued(resume.taken, self._together)


def progress_of(config: LoaderConfig, resume: Resume) -> Progress | Steps:
    """Returns the record for a stream with these settings."""
    return Steps(config, resume) if config.lockstep else Progress(resume)
