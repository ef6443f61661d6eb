"""Where each source of a mix stands at a place of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from sys import maxsize

import msgspec
from msgspec import Struct

from datago_gpu.sources.mix.mix_listing import PassLengths, Stretch
from datago_gpu.sources.mix.turns import Turns, whole_weights
from datago_gpu.sources.reference import Counted, PartlyDone, Position

__all__ = ["Place", "add_pass", "changed_from", "first_passes", "parse_places", "places_at", "stretches_from"]


class Place(Struct, array_like=True):
    """Where one source stands."""

    taken: Counted = 0
    """Samples that the source has given since the last change of weights."""
    before: Counted = 0
    """Number of passes through the source that have ended in this epoch."""
    index: Counted = 0
    """The number, in the current pass, of the source's next sample."""
    cursor: str = ""
    """The cursor of that sample, or of an earlier one."""
    given: Counted = 0
    """How many of the samples of the current pass before it passed the source's `where`."""


def parse_places(cursor: str, count: int) -> list[Place] | None:
    """Returns the places that a cursor of a mix has; None if it has none. count: of sources."""
    try:
        found = msgspec.json.decode(cursor, type=list[Place])
    except msgspec.DecodeError:
        return None
    return found if len(found) == count else None


def stretches_from(known: Sequence[Stretch], weights: Sequence[float], start: Position) -> list[Stretch]:
    """Returns the weights of an epoch. Other weights than those of a state hold from behind the last sample that is
    done: all earlier places stay what they were.

    known: of the state. weights: of the settings.
    """
    if not known:
        return [Stretch(0, list(weights))]
    if whole_weights(known[-1].weights) == whole_weights(weights):
        return list(known)
    last = max((last for _, last in start.done), default=-1) if isinstance(start, PartlyDone) else start.index - 1
    if last >= maxsize - 1:  # samples of an earlier epoch, which goes no further
        return list(known)
    return changed_from(known, weights, last + 1)


def changed_from(known: Sequence[Stretch], weights: Sequence[float], start: int) -> list[Stretch]:
    """Returns the weights of an epoch in which `weights` hold from sample number `start` on."""
    return [*(each for each in known if each.start < start), Stretch(start, list(weights))]


def places_at(
    stretches: Sequence[Stretch], index: int, lengths: Sequence[PassLengths], passes: Sequence[int] | None
) -> list[Place]:
    """Returns the places before sample number `index`, by counting the turns from the beginning of the epoch.

    Their indices are 0, and `given` says where they are: in a source with `where`, only a walk finds the index.

    lengths: of each source's passes. passes: after how many passes each source gives no more; None: never.
    """
    given = [0] * len(lengths)
    since = list(given)
    ends = [_samples_of(each, passes[number]) if passes else None for number, each in enumerate(lengths)]
    for stretch, following in pairwise([*stretches, None]):
        assert stretch is not None
        if stretch.start > index:
            break
        until = index if following is None else min(index, following.start)
        since = _turns_within(stretch, until, given, ends)
        given = [before + more for before, more in zip(given, since, strict=True)]
    found = []
    for number, each in enumerate(lengths):
        before, rest = _locate(given[number], each)
        found.append(Place(since[number], before, given=rest))
    return found


def _turns_within(stretch: Stretch, until: int, given: Sequence[int], ends: Sequence[int | None]) -> list[int]:
    """Returns how many samples of each source are in a stretch before sample number `until`."""
    turns = Turns(stretch.weights)
    left = until - stretch.start
    if all(end is None for end in ends):
        left -= turns.skip_rounds(left)
    while left:
        number = turns.next()
        if number < 0:
            break
        end = ends[number]
        if end is not None and given[number] + turns.taken[number] >= end:
            turns.finished[number] = True
        else:
            turns.take(number)
            left -= 1
    return turns.taken


def _samples_of(lengths: PassLengths, passes: int) -> int | None:
    """Returns the number of samples of so many passes; None if fewer passes have ended."""
    if sum(times for _, times in lengths) < passes:
        return None
    samples = 0
    for length, times in lengths:
        samples += length * min(times, passes)
        passes -= min(times, passes)
    return samples


def _locate(given: int, lengths: PassLengths) -> tuple[int, int]:
    """Returns how many passes have ended before sample number `given` of a source, and its number in its pass."""
    before = 0
    for length, times in lengths:
        whole = min(times, max(0, given - 1) // length) if length else times
        before, given = before + whole, given - whole * length
        if whole < times:
            break
    return before, given


def add_pass(lengths: PassLengths, length: int) -> PassLengths:
    """Returns the lengths with one more pass."""
    if lengths and lengths[-1][0] == length:
        return [*lengths[:-1], (length, lengths[-1][1] + 1)]
    return [*lengths, (length, 1)]


def first_passes(lengths: PassLengths, passes: int) -> PassLengths:
    """Returns the lengths of the first passes only."""
    found: PassLengths = []
    for length, times in lengths:
        if passes > 0:
            found.append((length, min(times, passes)))
        passes -= times
    return found
