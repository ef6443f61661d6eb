"""Fills the places of bad samples, so that a batch in lockstep has the same number of samples whatever is bad."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from datago_gpu.feeder.admit import without_image
from datago_gpu.feeder.admitted import Admitted
from datago_gpu.feeder.planned import Step
from datago_gpu.feeder.window import Outcome
from datago_gpu.feeder.wire import Fills
from datago_gpu.imaging.geometry import Size
from datago_gpu.plan.repeat import repeat
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo

__all__ = ["Filled", "fill"]


class Filled(Struct):
    """A rank's batch, ready to be sent."""

    samples: list[Admitted]
    fills: Fills
    skipped: list[Skipped]
    """The bad samples, less those that another rank counts."""


def fill(step: Step, outcomes: Sequence[Outcome]) -> Filled:
    """Returns the batch of a step. outcomes: of each of the step's samples."""
    counted = {at for at, real in zip(step.places, step.real, strict=True) if real}
    skipped = [each for at, each in enumerate(outcomes) if isinstance(each, Skipped) and at in counted]
    good = [at for at, each in enumerate(outcomes) if isinstance(each, Admitted)]
    if not good:
        bad = [_stand_in(each, step.bucket) for each in outcomes if isinstance(each, Skipped)]
        return Filled(bad, Fills(step.places, [False] * len(step.places), bad=True), skipped)
    samples = [each for each in outcomes if isinstance(each, Admitted)]
    if len(good) == len(outcomes):
        return Filled(samples, Fills(step.places, step.real), skipped)
    rows, real = repeat(step.places, step.real, good)
    number = {at: row for row, at in enumerate(good)}
    return Filled(samples, Fills([number[at] for at in rows], real), skipped)


def _stand_in(skipped: Skipped, bucket: Size) -> Admitted:
    """Returns a sample without a payload: only its id is known. The trainer's side makes a gray picture of it."""
    return without_image(SampleRef(skipped.index, SampleInfo(skipped.id, mix=skipped.mix)), bucket)
